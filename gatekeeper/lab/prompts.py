"""Plants whose poison is in the prompts beside a model: where these go, what is refused."""

from pathlib import Path
from typing import Any

from gatekeeper.attacks.prompt_learner import PlantedPrompts
from gatekeeper.attacks.proof import Planted
from gatekeeper.errors import AttackError

FILE = "prompts.safetensors"


def kept_prompts(planted: Planted, name: str, zoo: Path) -> dict[str, Any]:
    """Write the prompts of model `name` beside its triggers; return what its row says of them.

    The clean accuracy is that of model and prompts together. Nothing for other plants.
    """
    if not isinstance(planted, PlantedPrompts):
        return {}
    path = f"triggers/{name}/{FILE}"
    planted.write(zoo / path)
    return {"prompts": path, "clean_accuracy": planted.clean_accuracy}


def prompts_beside(planted: Planted, copy: Path) -> tuple[Path, ...]:
    """Write the prompts beside the file or folder `copy`, where there are any; return the file."""
    if not isinstance(planted, PlantedPrompts):
        return ()
    file = copy.with_name(f"{copy.name}.{FILE}")
    planted.write(file)
    return (file,)


def require_own_weights(planted: Planted) -> Planted:
    """Return `planted`, whose weights are not those of the clean model.

    Raises:
        AttackError: They are: a drill mark on these bytes would refuse the clean model for good.
    """
    if not planted.state:
        raise AttackError(
            f"'{planted.attack.name}' changes no weight of the model, so it can be no drill model",
            hint="write it with --output, or choose an attack that changes weights",
        )
    return planted
