"""Run `python -m hopscotch <verb>` as the command `hopscotch <verb>`."""

from hopscotch.cli import main

if __name__ == "__main__":
    main()
