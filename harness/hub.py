"""``Upload``: a dataset folder to the Hugging Face Hub, private unless told, when asked alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, DataError, HarnessError
from harness.registry import require

TOKEN = "HF_TOKEN"


class Upload:
    """An upload to ``owner/name``; what it needs is checked at once, before anything is written.

    The token is that of the environment (HF_TOKEN) alone, never one that a login left on disk, and
    no message shows it. HF_ENDPOINT names another hub.

    Raises ConfigError for a name that is none or without a token, MissingDependency without
    huggingface_hub.
    """

    def __init__(self, name: str, *, public: bool = False) -> None:
        hub = require("huggingface_hub", "models", "--push")
        try:
            require("huggingface_hub.utils", "models", "--push").validate_repo_id(name)
        except ValueError as error:
            raise ConfigError(f"--push takes OWNER/NAME, not '{name}': {error}") from None
        if name.count("/") != 1:
            raise ConfigError(f"--push takes OWNER/NAME, not '{name}'.")
        self._token = os.environ.get(TOKEN, "").strip()
        if not self._token:
            raise ConfigError(
                f"--push needs a token that may write, in the environment variable {TOKEN} "
                "(huggingface.co/settings/tokens)."
            )
        self.name, self.public = name, public
        self._api: Any = hub.HfApi(token=self._token)

    def send(self, folder: Path) -> str:
        """Create the repository where it is not there, put the folder's files in one commit, and
        return the repository's address.

        Raises:
            ConfigError: the repository is public and the upload is not to be.
            DataError: the hub cannot be reached, or refuses.
        """
        try:
            url = self._api.create_repo(
                self.name, repo_type="dataset", private=not self.public, exist_ok=True
            )
            # A repository that was there keeps its visibility, whatever was asked for.
            found = self._api.repo_info(self.name, repo_type="dataset")
            if not (found.private or self.public):
                raise ConfigError(
                    f"'{self.name}' is there already and is public; nothing was sent.\n"
                    "  Name another repository, make it private, or say --public."
                )
            self._api.upload_folder(
                repo_id=self.name, repo_type="dataset", folder_path=folder,
                commit_message="Episodes of language agents",
            )  # fmt: skip
        except HarnessError:
            raise
        except Exception as error:  # which library it speaks HTTP with changes with its version
            text = str(error).replace(self._token, "[token]")
            raise DataError(
                f"'{self.name}' could not be sent; the folder {folder} is whole. Check the network "
                f"and that the token may write there.\n  {text}"
            ) from None
        return str(url)
