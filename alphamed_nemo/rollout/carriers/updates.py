"""The calls about an update that vLLM's CUDA engines know, and those made like them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from alphamed_nemo.rollout.connection import Connection, RolloutError
from alphamed_nemo.rollout.receivers import Receivers
from alphamed_nemo.rollout.update_manifest import Manifest


def announcement(manifest: Manifest, **more: Any) -> dict[str, Any]:
    """Tells the workers what the update will carry; those that expect something else refuse it with an error."""
    listed = [[name, list(shape), dtype] for name, shape, dtype in manifest.listed()]
    return {"names": [], "dtype_names": [], "shapes": [], "announced": listed, **more}


def update(receivers: Receivers, info: dict[str, Any]) -> None:
    """A part of an update, or its announcement, to each of them. See `Receivers.each` for errors."""
    receivers.each(lambda connection: update_one(connection, info))


def update_one(connection: Connection, info: dict[str, Any]) -> None:
    announced = info.get("announced", ())
    what = f"agree to an update of {len(announced)}" if announced else f"take {len(info['names'])}"
    body = {"update_info": info}
    connection.call("POST", "/update_weights", f"the engine to {what} weights", retry=False, json=body)


def end_update(connection: Connection, info: dict[str, Any] | None = None) -> None:
    """Ends an update without finishing it. In vLLM only one that fails ends so, hence a call without its arguments
    (or with those that the engine fails at), and the error that it answers with is what was wanted. That a server is
    gone, the next call to it tells."""
    with suppress(RolloutError):
        request = {"update_info": info or {}}
        connection.call("POST", "/update_weights", "the end of an update", retry=False, json=request)
