"""The stages as Prefect tasks: thin, cached by content, each heavy one in a process of its own."""
