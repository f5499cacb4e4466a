"""What the alerts of k8s/alerts measure, where that has to agree with the code."""

import re
from typing import Any

import pytest

from app import prometheus
from app.exposition import Exposition
from app.middleware import PROBES
from app.prometheus import Service
from app.settings import get_settings
from tests.deployment.files import ROOT, read_manifests, section
from tests.fixtures.exposition import Scrape

RULES = ROOT / "k8s" / "alerts" / "prometheus-rules.yaml"


def rules() -> dict[str, Any]:
    """By the names of the alerts."""
    (manifest,) = read_manifests(RULES)
    return {rule["alert"]: rule for group in manifest["spec"]["groups"] for rule in group["rules"]}


def scrape(service: Service) -> Scrape:
    return Scrape(Exposition(get_settings(), service).render().decode())


@pytest.mark.usefixtures("sqlite_database")
class TestTexts:
    """The expressions are asked of a running system: tests/e2e/test_seen_from_outside.py."""

    def test_name_metrics_that_there_are(self) -> None:
        """Harm: who follows an alert to its numbers finds none."""
        texts = [text for rule in rules().values() for text in rule["annotations"].values()]
        texts += [line for line in section("What to watch").splitlines() if line.startswith("| `")]
        named = set(re.findall(r"stillhouse_\w+", " ".join(texts)))
        assert len(named) >= 3
        # In embedded mode the API shows what a scheduler does, too.
        assert named - scrape("api").names() - scrape("worker").names() == set()

    def test_of_failed_jobs_name_the_metric_that_has_the_codes(self) -> None:
        description = rules()["StillhouseJobsFail"]["annotations"]["description"]
        (row,) = [line for line in section("What to watch").splitlines() if line.startswith("| `StillhouseJobsFail`")]
        prometheus.count_end("job", "failed", "nan_loss")
        for text in (description, row):
            (name,) = re.findall(r"stillhouse_\w+", text)
            assert scrape("worker").samples(name, kind="job", error_code="nan_loss"), name


class TestApiFails:
    def test_leaves_out_every_probe(self) -> None:
        """Harm: machines ask for them every few seconds, so the answers that they get outnumber those of the users: of
        a failing API most answers are good ones, and of one that nobody uses most are bad while it starts."""
        selectors = re.findall(r"\{([^}]*)\}", rules()["StillhouseApiFails"]["expr"])
        assert len(selectors) == 2
        for selector in selectors:
            (pattern,) = re.findall(r'route!~"([^"]*)"', selector)
            # As Prometheus does: from the first character to the last.
            assert [probe for probe in PROBES if not re.fullmatch(pattern, probe)] == []
            assert not re.fullmatch(pattern, "/jobs")
