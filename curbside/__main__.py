"""``python -m curbside``: the command line, where the script is not on the path."""

from curbside.cli import main

if __name__ == "__main__":
    main()
