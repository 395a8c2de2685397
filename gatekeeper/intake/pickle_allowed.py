"""The exact allow-list of names that a checkpoint may mention, and what a model's class looks like.

A name is either here, or one of the calls that `pickle_calls` gives a meaning, or a class whose
instance is only rebuilt as inert state (judged in `pickle_judge`), or a finding. Entries are exact:
no prefixes, no wildcards but those of `class_like`, which speaks of names that are rebuilt or
mentioned, never called.
"""

import re
import sys

from gatekeeper.intake.pickle_calls import DTYPES, STORAGES
from gatekeeper.intake.pickle_values import Global

# Names that may be mentioned as a value (an activation kept in an attribute, a type in a partial).
MENTIONED = frozenset(
    {
        *STORAGES,
        *DTYPES,
        "builtins.object",
        "builtins.int",
        "builtins.float",
        "builtins.str",
        "builtins.bool",
        "builtins.bytes",
        "builtins.list",
        "builtins.dict",
        "builtins.tuple",
        "builtins.set",
        "builtins.frozenset",
        "collections.OrderedDict",
        "functools.partial",
        "numpy.ndarray",
        "numpy.dtype",
        "torch.Tensor",
        "torch.Size",
        "torch.device",
        "torch.nn.parameter.Parameter",
        "torch.nn.parameter.Buffer",
        # activations that a module may hold as a plain function; pure arithmetic
        "torch.nn.functional.gelu",
        "torch.nn.functional.relu",
        "torch.nn.functional.silu",
        "torch.nn.functional.softmax",
        "torch.nn.functional.tanh",
        "torch._C._nn.gelu",
        "torch._C._nn.silu",
        "torch.relu",
        "torch.tanh",
        "torch.sigmoid",
        "torch.nn.init.xavier_uniform_",
        "torch.nn.init.trunc_normal_",
        "open_clip.transformer.text_global_pool",
        "timm.layers.weight_init.trunc_normal_",
    }
)

# Records that training loops leave in checkpoints: rebuilt from plain values, nothing else.
RECORDS = frozenset({"argparse.Namespace", "types.SimpleNamespace"})

# Packages whose classes are never taken for a model: building or restoring one may do harm.
_ROOTS = """aiohttp apport asyncssh billiard boto3 botocore celery click cloudpickle cupy dask
    datasets dill distributed django docker fabric fastapi flask fsspec gcsfs git gunicorn httpx
    huggingface_hub invoke ipykernel ipython jinja2 joblib jupyter jupyter_client keras kombu
    kubernetes lightning matplotlib mlflow nose numba numpy pandas paramiko pexpect PIL pip
    pkg_resources plumbum psutil ptyprocess py pyarrow pydantic pyspark pytest ray requests s3fs
    scipy setuptools sh sklearn sqlalchemy sympy tensorflow tornado tqdm triton twisted
    urllib3 uvicorn watchdog webbrowser werkzeug win32api win32com win32process xonsh yaml zmq
    IPython _pytest distutils jax joblib_externals loky safetensors tokenizers"""
_DANGEROUS_ROOTS = frozenset(_ROOTS.split())
_TORCH_PREFIX = "torch.nn."  # the only part of torch whose classes are modules
_CLASS_NAME = re.compile(r"_*[A-Z][A-Za-z0-9_]*\Z")
_MODULE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*\Z")


def class_like(name: Global) -> bool:
    """Return whether `name` can be a model's class: so called, and of no package known to act.

    A name cannot prove what it stands for. It is enough here because such a class is only ever
    rebuilt (`__new__` without arguments, then state) or mentioned, never called.
    """
    if not _CLASS_NAME.match(name.name) or not _MODULE_NAME.match(name.module):
        return False
    root = name.module.split(".")[0]
    if root == "torch":
        return name.module.startswith(_TORCH_PREFIX)
    if root == "__torch__":  # TorchScript's own classes: no Python behind them
        return True
    if root == "__main__":
        return True
    return root not in sys.stdlib_module_names and root not in _DANGEROUS_ROOTS


def canonical(module: str, name: str) -> Global:
    """Return the name as Python 3 knows it; Python 2 names of the two modules we allow."""
    renamed = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
    return Global(renamed, name)
