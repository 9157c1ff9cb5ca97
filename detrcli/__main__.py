"""`python -m detrcli` is `detr`."""

from detrcli.cli.app import main

if __name__ == "__main__":
    main()
