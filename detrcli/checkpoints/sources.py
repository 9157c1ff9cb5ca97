"""The sources of weights that are downloaded, by the name that the user gives. Imports no torch."""

from importlib.util import find_spec
from pathlib import Path

from detrcli.checkpoints.catalog import CATALOG, EXTRA
from detrcli.checkpoints.download import RemoteFile, UnreachableError, check_reachable, hash_in_name
from detrcli.checkpoints.hub import PREFIX, HubModel
from detrcli.checkpoints.registry import DEFAULT, PUBLISHED, is_url
from detrcli.errors import UsageError, WeightsError
from detrcli.messages import argument
from detrcli.reporter import SILENT, Reporter

Remote = RemoteFile | HubModel


def remote(source: str, sha256: str | None = None) -> Remote | None:
    """Return where weights are downloaded from; None for those that are on this machine."""
    if source in PUBLISHED:
        return RemoteFile(PUBLISHED[source].url, PUBLISHED[source].sha256)
    if source in CATALOG:
        model = CATALOG[source]
        if model.repository is not None:
            return HubModel(model.repository, pinned=True)
        return RemoteFile(model.source, model.md5 or "", "md5")
    if source.startswith(PREFIX):
        return HubModel.of(source)
    if is_url(source):
        expected = sha256 or hash_in_name(source)
        if expected is None:
            raise UsageError(f"{source}: the file's name contains no hash. Give it as {argument('sha256')}.")
        return RemoteFile(source, expected)
    return None


def obtain(source: str, where: Remote, reporter: Reporter = SILENT) -> Path:
    """Return the file or folder of weights, downloaded at their first use, for which their license is reported."""
    _check_installed(source, where)
    named = PUBLISHED.get(source) or CATALOG.get(source)
    try:
        if named is not None and not where.is_cached():
            check_reachable(where.address)
            reporter.note(f"{source}: the license of these weights is {named.license}")
        return where.fetch(reporter)
    except UnreachableError as error:
        raise _offline(source, where, error) from None


def check_available(source: str, sha256: str | None = None) -> None:
    """Raise WeightsError for weights that are not on this machine and cannot be downloaded. Imports nothing slow."""
    where = remote(source, sha256)
    if where is None:
        return
    _check_installed(source, where)
    if not where.is_cached():
        try:
            check_reachable(where.address)
        except UnreachableError as error:
            raise _offline(source, where, error) from None


def _check_installed(source: str, where: Remote) -> None:
    packages = [
        *(["huggingface_hub"] if isinstance(where, HubModel) else []),
        *(["transformers"] if source in CATALOG else []),
    ]
    for package in packages:
        if find_spec(package) is None:
            raise WeightsError(f"{source} needs the package {package}: pip install 'detrcli[{EXTRA}]'")


def _offline(source: str, where: Remote, error: UnreachableError) -> WeightsError:
    default = ", the default," if source == DEFAULT else ""
    file = argument("weights", "FILE" if isinstance(where, RemoteFile) else "FOLDER")
    return WeightsError(
        f"{source}{default} is not on this machine yet, and {error.reason}. Is there a network?\n"
        f"Without it, {argument('weights', 'shapes')} is a detector of colored shapes to try, and {file} takes a "
        f"download from elsewhere: {where.address}\n"
        f"`detr train` needs no download with {argument('model', 'dino-tiny')} {argument('weights', 'none')}."
    )
