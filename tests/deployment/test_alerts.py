"""What the alerts of k8s/alerts measure, where that has to agree with the code."""

import re
from pathlib import Path

from app.middleware import PROBES
from tests.deployment.files import ROOT, read_manifests

RULES = ROOT / "k8s" / "alerts" / "prometheus-rules.yaml"


def expression(alert: str, path: Path = RULES) -> str:
    (manifest,) = read_manifests(path)
    rules = [rule for group in manifest["spec"]["groups"] for rule in group["rules"]]
    (found,) = [rule["expr"] for rule in rules if rule["alert"] == alert]
    return str(found)


class TestApiFails:
    def test_leaves_out_every_probe(self) -> None:
        """Harm: machines ask for them every few seconds, so the answers that they get outnumber those of the users: of
        a failing API most answers are good ones, and of one that nobody uses most are bad while it starts."""
        selectors = re.findall(r"\{([^}]*)\}", expression("StillhouseApiFails"))
        assert len(selectors) == 2
        for selector in selectors:
            (pattern,) = re.findall(r'route!~"([^"]*)"', selector)
            # As Prometheus does: from the first character to the last.
            assert [probe for probe in PROBES if not re.fullmatch(pattern, probe)] == []
            assert not re.fullmatch(pattern, "/jobs")
