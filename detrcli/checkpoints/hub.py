"""Models on the Hugging Face hub, downloaded by its own client into its own cache. Imports no torch."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from detrcli.checkpoints.download import UnreachableError, check_reachable
from detrcli.errors import WeightsError
from detrcli.reporter import SILENT, Reporter
from detrcli.system.files import cache_folder, write_whole

PREFIX = "hf:"
CONFIG, TENSORS, PREPROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
# Files of open-vocabulary models: the processor, which has a tokenizer, and the tokenizer.
TOKENIZER = (
    "processor_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt",
)  # fmt: skip
WANTED = (CONFIG, TENSORS, PREPROCESSOR, *TOKENIZER)
TIMEOUT = 10.0  # seconds for an answer of the hub


@dataclass(frozen=True)
class _Record:
    """A download: its commit, and the SHA-256 of its files by name."""

    commit: str
    sha256: Mapping[str, str]


@dataclass(frozen=True)
class HubModel:
    """A repository on the hub. The SHA-256 of its files is recorded at the first download of a commit."""

    repository: str
    revision: str = "main"
    pinned: bool = False  # to the commit that was downloaded first; otherwise, to what the revision is at each use

    @classmethod
    def of(cls, source: str) -> "HubModel":
        """Parse `hf:OWNER/NAME[@REVISION]`."""
        repository, at, revision = source.removeprefix(PREFIX).partition("@")
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository, re.ASCII) or (at and not revision):
            raise WeightsError(f"{source}: not the name of a model on the hub, which is hf:OWNER/NAME[@REVISION].")
        return cls(repository, revision or cls.revision)

    @property
    def name(self) -> str:
        return PREFIX + self.repository + (f"@{self.revision}" if self.revision != "main" else "")

    @property
    def address(self) -> str:
        return f"{_endpoint()}/{self.repository}"

    def is_cached(self) -> bool:
        return bool(self._cached(self._record()))

    def fetch(self, reporter: Reporter = SILENT) -> Path:
        """Return the folder of the files, from the cache or downloaded. Each file's hash is checked.

        Without a network, the files that are in the cache are used.
        """
        record = self._record()
        paths = self._cached(record) if self.pinned and record is not None else {}
        if not paths:
            try:
                check_reachable(self.address)
                commit, paths = self._download(record, reporter)
            except UnreachableError:
                paths = self._cached(record)
                if not paths:
                    raise
                reporter.note(f"{self.name}: the hub cannot be reached; the files in the cache are used")
            else:
                if record is not None and record.commit != commit:
                    record = None
        digests = {name: _sha256(path) for name, path in paths.items()}
        if record is None:
            commit = paths[CONFIG].parent.name
            content = json.dumps({"commit": commit, "sha256": digests}, indent=2)
            self._record_path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._record_path, content.encode())
        for name, recorded in (record.sha256 if record is not None else {}).items():
            if digests.get(name) != recorded:
                raise WeightsError(
                    f"{self.name}: {name} has the SHA-256 {digests.get(name)}, and the first download had {recorded}.\n"
                    f"Delete {paths[CONFIG].parent} and use the weights again, which downloads them."
                )
        return paths[CONFIG].parent

    @property
    def _record_path(self) -> Path:
        return cache_folder() / "hub" / f"{quote(f'{self.repository}@{self.revision}', safe='@')}.json"

    def _record(self) -> _Record | None:
        try:
            content = json.loads(self._record_path.read_text(encoding="utf-8"))
            return _Record(str(content["commit"]), dict(content["sha256"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _cached(self, record: _Record | None) -> dict[str, Path]:
        """Return the files in the hub's cache by name; none if a required file is missing."""
        if find_spec("huggingface_hub") is None:
            return {}
        from huggingface_hub import constants

        if not Path(constants.HF_HUB_CACHE, f"models--{self.repository.replace('/', '--')}").exists():
            return {}
        from huggingface_hub import try_to_load_from_cache  # slow to import

        names, revision = (WANTED, self.revision) if record is None else (record.sha256, record.commit)
        found = {name: try_to_load_from_cache(self.repository, name, revision=revision) for name in names}
        paths = {name: Path(path) for name, path in found.items() if isinstance(path, str)}
        needed = (CONFIG, TENSORS) if record is None else record.sha256
        return paths if all(name in paths for name in needed) else {}

    def _download(self, record: _Record | None, reporter: Reporter) -> tuple[str, dict[str, Path]]:
        """Return the commit, and the files by name, whose hashes are those that the hub states."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import (
            EntryNotFoundError,
            HfHubHTTPError,
            LocalEntryNotFoundError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        hub = HfApi(endpoint=_endpoint())
        revision = record.commit if self.pinned and record is not None else self.revision
        try:
            info = hub.model_info(self.repository, revision=revision, files_metadata=True, timeout=TIMEOUT)
            files = {file.rfilename: file for file in info.siblings or []}
            for name in (CONFIG, TENSORS):
                if name not in files:
                    raise WeightsError(f"{self.name}: there is no {name} in this repository.")
            paths = {}
            for name in filter(files.__contains__, WANTED):
                bar = _bar(f"{self.repository}/{name}", reporter if name == TENSORS else SILENT)
                paths[name] = Path(hub.hf_hub_download(self.repository, name, revision=info.sha, tqdm_class=bar))
        except WeightsError:
            raise
        except RevisionNotFoundError:
            raise WeightsError(f"{self.name}: the repository has no revision {revision!r}.") from None
        except RepositoryNotFoundError:
            raise WeightsError(
                f"{self.name}: no such repository on the hub, or a private one, which needs HF_TOKEN."
            ) from None
        except OfflineModeIsEnabled:
            raise UnreachableError(self.name, "HF_HUB_OFFLINE is set") from None
        except (HfHubHTTPError, EntryNotFoundError, ValueError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise WeightsError(f"{self.name}: the download failed: {reason}") from None
        except (LocalEntryNotFoundError, OSError) as error:
            if isinstance(error, OSError) and error.filename is not None:
                raise  # of the disk
            raise UnreachableError(self.name, f"the hub cannot be reached ({error})") from None
        except Exception as error:  # of the HTTP library, which depends on the version
            raise UnreachableError(self.name, f"the hub cannot be reached ({error})") from None
        for name, path in paths.items():
            _check(self.name, name, path, files[name])
        return str(info.sha), paths


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(source: str, name: str, path: Path, facts: Any) -> None:
    """Compare a file's hash with the hub's: the SHA-256 of large files, and the git blob hash of the others."""
    if facts.lfs is not None:
        kind, expected, digest = "SHA-256", facts.lfs.sha256, _sha256(path)
    else:
        content = path.read_bytes()
        digest = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        kind, expected = "git hash", facts.blob_id
    if expected is not None and digest != expected:
        path.resolve().unlink()
        raise WeightsError(f"{source}: {name} has the {kind} {digest}, not {expected}. It was deleted. Try again.")


def _bar(what: str, reporter: Reporter) -> Any:
    """Return a progress bar class of the kind that the hub's client takes, for the download of `what`."""

    class Bar:
        n = 0  # of tqdm, which some versions of the client read

        def __init__(self, *_: Any, total: float | None = None, initial: float = 0, **__: Any) -> None:
            self.total = total
            self._progress = reporter.progress(f"downloading {what}", None if total is None else int(total), "bytes")
            self._advance = self._progress.__enter__()
            self._started = True
            self._advance(int(initial))

        def update(self, count: float | None = 1) -> None:
            self._advance(int(count or 0))

        def update_transfer(self, count: float) -> None:
            """Ignore the bytes on the network; with this method the client uses a single bar."""

        def close(self) -> None:
            if self._started:
                self._started = False
                self._progress.__exit__(None, None, None)

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *_: object) -> None:
            self.close()

        def __getattr__(self, name: str) -> Any:  # of tqdm's other methods
            return lambda *_, **__: None

    return Bar
