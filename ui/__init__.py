"""The Streamlit console.  Nothing but the command line knows it."""
