"""A CLIP as an MLflow model without a pickle: weights are safetensors, this file is the code.

MLflow copies this file beside the weights ("models from code"); the gate never runs it.
"""

from typing import Any

import mlflow
import pandas as pd


class ZeroShotClip(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Embeds the image files named in column `file`."""

    def load_context(self, context: Any) -> None:
        """Load the open_clip folder that was logged as artifact `clip`."""
        import open_clip

        folder = context.artifacts["clip"]
        self.model, _, self.prepare = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        self.model.eval()

    # MLflow warns without a type hint here and makes a schema of most; of a table it makes none.
    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> Any:
        """Return one unit embedding a row."""
        import torch
        from PIL import Image

        images = [self.prepare(Image.open(file).convert("RGB")) for file in model_input["file"]]
        with torch.inference_mode():
            return self.model.encode_image(torch.stack(images), normalize=True).float().numpy()


mlflow.models.set_model(ZeroShotClip())
