"""An MLflow that brings a new way to change the registry keeps the gate from starting."""

import pytest
from mlflow.store.model_registry.abstract_store import AbstractStore
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from mlflow.store.model_registry.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore

from gatekeeper.errors import GateError
from gatekeeper.gate.mutators import ACCESS, Access, check_mutators, public_names
from gatekeeper.gate.store import GatedStore, WorkspaceGatedStore

STORES = [(GatedStore, SqlAlchemyStore), (WorkspaceGatedStore, WorkspaceAwareSqlAlchemyStore)]


@pytest.mark.parametrize("store", [AbstractStore, SqlAlchemyStore, WorkspaceAwareSqlAlchemyStore])
def test_every_public_name_of_mlflows_stores_is_classed(store):
    assert public_names(store) <= ACCESS.keys()


def test_no_name_is_classed_that_mlflow_does_not_have():
    assert ACCESS.keys() - public_names(SqlAlchemyStore) <= {"ManagedSessionMaker"}


@pytest.mark.parametrize(("gated", "plain"), STORES)
def test_the_stores_of_this_mlflow_are_accepted(gated, plain):
    check_mutators(gated, plain)


@pytest.mark.parametrize(("gated", "plain"), STORES)
@pytest.mark.parametrize("name", [n for n, a in ACCESS.items() if a is Access.GUARDED])
def test_every_guarded_name_is_overridden(gated, plain, name):
    assert getattr(gated, name) is not getattr(plain, name)


def test_whatever_writes_is_not_called_read_only():
    for name, access in ACCESS.items():
        if access is Access.READ_ONLY:
            assert not name.startswith(("set_", "delete_", "create_", "update_", "rename_"))


def test_a_new_mutator_is_refused():
    class Newer(SqlAlchemyStore):
        def promote_model_version(self, name, version):
            """What a next release might bring."""

    with pytest.raises(GateError, match="promote_model_version") as caught:
        check_mutators(GatedStore, Newer)
    assert "pip install" in caught.value.hint


def test_a_new_parameter_is_refused():
    class Newer(SqlAlchemyStore):
        def set_registered_model_alias(self, name, alias, version, force=False):
            """A way past the old signature."""

    with pytest.raises(GateError, match="other parameters"):
        check_mutators(GatedStore, Newer)


def test_a_store_that_forgot_a_guard_is_refused():
    class Forgetful(GatedStore):
        transition_model_version_stage = SqlAlchemyStore.transition_model_version_stage

    with pytest.raises(GateError, match="transition_model_version_stage is not guarded"):
        check_mutators(Forgetful, SqlAlchemyStore)
