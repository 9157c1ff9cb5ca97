"""`detr models`: the weights and models to choose from."""

from detrcli import api
from detrcli.cli.console import print_result
from detrcli.cli.options import Json


def models(json: Json = False) -> None:
    """List named weights, and supported model families."""
    print_result(api.list_models(), json=json)
