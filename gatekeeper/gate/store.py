"""MLflow's registry store with the gate in it: no protected name moves without a decision.

The decision is read in the transaction that moves the name. Refusals are written to the trail
after the rollback, on a connection of their own. Whatever goes wrong in here refuses.
"""

from typing import Any

from mlflow.entities.model_registry.model_version_stages import get_canonical_stage
from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES
from mlflow.store.model_registry.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore
from mlflow.utils.validation import _validate_model_version as version_number

from gatekeeper.gate import db
from gatekeeper.gate.gated import Gated
from gatekeeper.gate.lookups import copied_version
from gatekeeper.gate.names import makes_prompt
from gatekeeper.gate.promotion import Wish


class GatedStore(Gated):
    """The single-tenant store."""

    # Promotions ---------------------------------------------------------------------------------

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias at a version, if it is not protected or the version may carry it."""

        def perform() -> None:
            super(GatedStore, self).set_registered_model_alias(name, alias, version)

        with self._fail_closed("alias", name, alias):
            prompt = self._is_prompt_version(name, version)
            if not prompt:
                self._refuse_if("alias", name, alias, self._names.bad_alias(name, alias))
            guarded = not prompt and self._names.protects_alias(name, alias)
        if not guarded:
            return perform()
        return self._promote(
            Wish(action="alias", name=name, version=version_number(version), label=alias), perform
        )

    def transition_model_version_stage(
        self, name: str, version: str, stage: str, archive_existing_versions: bool
    ) -> Any:
        """Move a version to a stage; to a protected one only with a decision."""

        def perform() -> Any:
            return super(GatedStore, self).transition_model_version_stage(
                name, version, stage, archive_existing_versions
            )

        label = get_canonical_stage(stage)
        with self._fail_closed("stage", name, label):
            prompt = self._is_prompt_version(name, version)
            guarded = not prompt and self._names.protects_stage(name, label)
            if guarded:
                self._refuse_if("stage", name, label, self._names.bad_name(name))
        if not guarded:
            return perform()
        wish = Wish(action="stage", name=name, version=version_number(version), label=label)
        return self._promote(wish, perform)

    def create_model_version(
        self,
        name: str,
        source: str,
        run_id: str | None = None,
        tags: Any = None,
        run_link: str | None = None,
        description: str | None = None,
        local_model_path: str | None = None,
        model_id: str | None = None,
    ) -> Any:
        """Register a version; a protected model takes copies of approved versions alone."""

        def perform() -> Any:
            return super(GatedStore, self).create_model_version(
                name, source, run_id, tags, run_link, description, local_model_path, model_id
            )

        with self._fail_closed("create", name, None):
            origin, prompt = copied_version(source), self._is_prompt(name)
            reason = self._names.bad_version_tags(tags, self._version_tags(origin), source, prompt)
            self._refuse_if("tag", name, None, reason)
            guarded = not prompt and self._names.is_copy_target(name)
            if guarded and origin is None:
                reason = self._names.needs_copy(name, source)
                self._refuse_if("copy", name, None, reason, always=False)
        if not guarded:
            created = perform()
            if origin is not None and not prompt:
                self._carry_note(origin, created)
            return created
        if origin is None:  # mode warn or audit
            return perform()
        wish = Wish(action="copy", name=origin[0], version=origin[1], label=name)
        return self._promote(wish, perform)

    # Names and tags -----------------------------------------------------------------------------

    def create_registered_model(
        self, name: str, tags: Any = None, description: Any = None, deployment_job_id: Any = None
    ) -> Any:
        """Make an empty model, unless its name imitates a protected one."""
        with self._fail_closed("create", name, None):
            self._refuse_if("tag", name, None, self._names.bad_tags(tags))
            if not makes_prompt(tags):
                self._refuse_if("create", name, None, self._names.bad_new_name(name))
                if self._names.is_copy_target(name):
                    self._note("create", name, "an empty protected model was made")
        return super().create_registered_model(name, tags, description, deployment_job_id)

    def rename_registered_model(self, name: str, new_name: str) -> Any:
        """Rename a model, unless a protected name would be taken, left or carried along."""
        with self._fail_closed("rename", name, new_name):
            if not self._is_prompt(name):
                held = self._held_names(name, renamed=new_name)
                reason = self._names.bad_rename(name, new_name, held)
                self._refuse_if("rename", name, new_name, reason, always=False)
        return super().rename_registered_model(name, new_name)

    def set_registered_model_tag(self, name: str, tag: Any) -> None:
        """Set a tag, unless it is the gate's own or would hide a model."""
        with self._fail_closed("tag", name, None):
            reason = self._names.bad_tag(tag.key, on_prompt=self._is_prompt(name))
            self._refuse_if("tag", name, tag.key, reason)
        super().set_registered_model_tag(name, tag)

    def delete_registered_model_tag(self, name: str, key: str) -> None:
        """Delete a tag, unless it is the gate's own."""
        with self._fail_closed("tag", name, None):
            self._refuse_if("tag", name, key, self._names.bad_tag(key, on_prompt=True))
        super().delete_registered_model_tag(name, key)

    def set_model_version_tag(self, name: str, version: str, tag: Any) -> None:
        """Set a tag, unless it is the gate's own or would hide a model."""
        with self._fail_closed("tag", name, None):
            reason = self._names.bad_tag(tag.key, on_prompt=self._is_prompt(name))
            self._refuse_if("tag", name, tag.key, reason)
        super().set_model_version_tag(name, version, tag)

    def delete_model_version_tag(self, name: str, version: str, key: str) -> None:
        """Delete a tag, unless it is the gate's own."""
        with self._fail_closed("tag", name, None):
            reason = self._names.bad_tag(key, on_prompt=True)
            self._refuse_if("tag", name, key, reason)
        super().delete_model_version_tag(name, version, key)

    # Demotions: allowed, and written down -------------------------------------------------------

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        """Take an alias away."""
        with self._fail_closed("delete_alias", name, alias):
            if self._names.protects_alias(name, alias) and not self._is_prompt(name):
                self._note("delete_alias", name, "the alias was taken away", alias)
        super().delete_registered_model_alias(name, alias)

    def delete_model_version(self, name: str, version: str) -> None:
        """Delete a version, with the aliases that point at it."""
        with self._fail_closed("delete_version", name, None):
            for label in self._held_names(name, version_number(version)):
                reason = "the version that carried it was deleted"
                self._note("delete_version", name, reason, label, version_number(version))
        super().delete_model_version(name, version)

    def delete_registered_model(self, name: str) -> None:
        """Delete a model with all its versions and aliases."""
        with self._fail_closed("delete_model", name, None):
            for label in self._held_names(name):
                self._note("delete_model", name, "the model that carried it was deleted", label)
        super().delete_registered_model(name)


class WorkspaceGatedStore(GatedStore, WorkspaceAwareSqlAlchemyStore):  # type: ignore[misc]
    """The store of a server with workspaces: the same names exist in each of them."""


def make_store(store_uri: str) -> GatedStore:
    """Return the gated store for `gatekeeper+sqlite:///…` and its kin.

    Raises:
        GatekeeperError: Policy, database or MLflow are not what the gate needs: it does not start.
    """
    kind = WorkspaceGatedStore if MLFLOW_ENABLE_WORKSPACES.get() else GatedStore
    return kind(db.plain_uri(store_uri))
