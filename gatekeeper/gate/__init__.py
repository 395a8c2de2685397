"""Where the gate meets MLflow: store plug-in, decisions, queue, worker, evidence runs."""
