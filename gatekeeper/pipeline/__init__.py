"""The Python API: assess a model directory, write the evidence, make a cleaned version.

Composes intake, probes, oracle, scan, policy, evidence and rectify. Works on local paths alone:
what fetches from MLflow or S3 is `gatekeeper.gate`.
"""

from gatekeeper.pipeline.assess import Assessment, assess, recall
from gatekeeper.pipeline.keep import write
from gatekeeper.pipeline.prepare import ScanRequest
from gatekeeper.pipeline.rectification import Rectification, rectify

__all__ = ["Assessment", "Rectification", "ScanRequest", "assess", "recall", "rectify", "write"]
