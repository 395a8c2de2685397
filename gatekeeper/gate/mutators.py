"""Every public name of MLflow's registry store, classed: what can move a protected name?

A name that is not in this table keeps the gate from starting: an MLflow release that brings a new
way to change the registry is looked at before it is served.
"""

import inspect
from enum import StrEnum
from typing import Any

from gatekeeper.errors import GateError


class Access(StrEnum):
    """What a method of the store may do to a protected name."""

    GUARDED = "guarded"  # overridden by the gate
    HARMLESS = "harmless"  # changes something, but nothing that is protected
    READ_ONLY = "read-only"


_GUARDED = (
    "create_model_version",
    "create_registered_model",
    "delete_model_version",  # demotion: recorded
    "delete_model_version_tag",
    "delete_registered_model",
    "delete_registered_model_alias",
    "delete_registered_model_tag",
    "rename_registered_model",
    "set_model_version_tag",
    "set_registered_model_alias",
    "set_registered_model_tag",
    "transition_model_version_stage",
)
_HARMLESS = (
    # They call guarded methods of this store and nothing else.
    "copy_model_version",
    "create_prompt",
    "create_prompt_version",
    "delete_prompt",
    "delete_prompt_alias",
    "delete_prompt_tag",
    "delete_prompt_version",
    "delete_prompt_version_tag",
    "set_prompt_alias",
    "set_prompt_tag",
    "set_prompt_version_tag",
    # Links between prompts and traces, models or runs live in the tracking store.
    "link_prompt_version_to_model",
    "link_prompt_version_to_run",
    "link_prompts_to_trace",
    # Descriptions display; `source` and `current_stage` in their requests are ignored.
    "update_model_version",
    "update_registered_model",
    # Notifications after the fact, never enforcement.
    "create_webhook",
    "delete_webhook",
    "test_webhook",
    "update_webhook",
)
_READ_ONLY = (
    "CREATE_MODEL_VERSION_RETRIES",
    "ManagedSessionMaker",
    "get_latest_versions",
    "get_model_version",
    "get_model_version_by_alias",
    "get_model_version_download_uri",
    "get_prompt",
    "get_prompt_version",
    "get_prompt_version_by_alias",
    "get_registered_model",
    "get_webhook",
    "list_webhooks",
    "list_webhooks_by_event",
    "search_model_versions",
    "search_prompt_versions",
    "search_prompts",
    "search_registered_models",
    "supports_workspaces",
)

ACCESS: dict[str, Access] = {
    **dict.fromkeys(_GUARDED, Access.GUARDED),
    **dict.fromkeys(_HARMLESS, Access.HARMLESS),
    **dict.fromkeys(_READ_ONLY, Access.READ_ONLY),
}


def public_names(store: type[Any]) -> frozenset[str]:
    """Return the public names of a store class."""
    return frozenset(name for name, _ in inspect.getmembers(store) if not name.startswith("_"))


def check_mutators(gated: type[Any], plain: type[Any]) -> None:
    """Make sure that `gated`, a subclass of MLflow's `plain`, guards all that must be guarded.

    Raises:
        GateError: A public name is not classed, a guarded one is gone, not overridden, or takes
            other parameters than MLflow's.
    """
    unknown = public_names(plain) - ACCESS.keys()
    if unknown:
        raise _unsupported(f"it has {', '.join(sorted(unknown))}, which the gate does not know")
    for name in _GUARDED:
        theirs, ours = getattr(plain, name, None), getattr(gated, name)
        if theirs is None:
            raise _unsupported(f"{name} is gone")
        if ours is theirs:
            raise _unsupported(f"{name} is not guarded")
        if list(inspect.signature(theirs).parameters) != list(inspect.signature(ours).parameters):
            raise _unsupported(f"{name} takes other parameters")


def _unsupported(why: str) -> GateError:
    return GateError(
        f"the gate does not start: MLflow's registry store is not the one it knows ({why})",
        hint="install an MLflow that this release supports: pip install 'mlflow>=3.17.2,<3.19'",
    )
