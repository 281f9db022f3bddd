"""Services that keep experiments: whether their packages are here, and how they are opened."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from flops_fit.errors import InputError, MissingExtraError

__all__ = ["mlflow_client", "mlflow_folder", "needs", "tracking_place"]

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_ALLOW = "MLFLOW_ALLOW_FILE_STORE"


def needs(package: str, extra: str, who: str) -> None:
    """Refuse where a package is missing, without importing it.

    Raises
    ------
    MissingExtraError
        It is not installed.
    """
    found = importlib.util.find_spec(package)
    # A folder of runs, such as ./wandb, passes for a package without an origin.
    if found is None or found.origin is None:
        raise MissingExtraError(package, extra, who)


def tracking_place(uri: str | Path | None) -> str:
    """A URI that means the same in every process; folders are absolute ``file:`` URIs.

    Raises
    ------
    InputError
        It is that of a database, and only mlflow-skinny is installed.
    """
    text = str(uri or os.environ.get("MLFLOW_TRACKING_URI") or "mlruns")
    scheme = urlparse(text).scheme
    if scheme.split("+")[0] in _DATABASES and importlib.util.find_spec("sqlalchemy") is None:
        raise InputError(
            f"tracking_uri={text!r}: a database needs all of MLflow, of which mlflow-skinny is a "
            "part: pip install mlflow. Or give a folder, or the URI of a server."
        )
    return text if scheme else Path(text).resolve().as_uri()


def mlflow_folder(uri: str) -> Path | None:
    """The folder that a URI names; ``None`` where it names something else."""
    place = urlparse(uri)
    return Path(url2pathname(place.path)) if place.scheme == "file" else None


def mlflow_client(uri: str) -> Any:
    """MLflow's client for a URI."""
    from mlflow.tracking import MlflowClient

    if mlflow_folder(uri) is None:
        return MlflowClient(tracking_uri=uri)
    before = os.environ.get(_ALLOW)
    os.environ[_ALLOW] = "true"
    try:
        # The registry, which is not used, would else be looked for at the default place.
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    finally:
        if before is None:
            del os.environ[_ALLOW]
        else:
            os.environ[_ALLOW] = before
