"""`python -m opportune_service.cli`: the same as the `opportune` command."""

from opportune_service.cli import main

main()
