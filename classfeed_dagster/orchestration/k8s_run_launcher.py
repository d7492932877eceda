"""Run launcher of a Kubernetes deployment. Needs the extra ``k8s``."""

from dagster_k8s import K8sRunLauncher

from classfeed_dagster.orchestration.run_launcher import PlainTags


class RestrictedK8sRunLauncher(PlainTags, K8sRunLauncher):
    """Kubernetes run launcher that starts every run with the command, account and image of its own configuration."""
