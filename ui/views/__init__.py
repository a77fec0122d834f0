"""One module a page of the console, each with ``page()``; view models live beside this folder."""
