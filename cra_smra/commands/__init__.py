"""The commands of ``cra-smra``, one module each, with a function ``run(argv)``; cli.py calls them."""
