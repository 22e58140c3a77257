"""Schemathesis against the server's own description of itself: no answer that is undescribed, none of 5xx.

It makes an environment of its own under ``build`` once: the fuzzer's dependencies are none of ours. Left out is one
check, "schema-valid requests are accepted": JSON Schema cannot say that a tensor's data fit its shape, nor that bytes
are an image.

    python benchmarks/fuzz_serve.py MODEL.onnx [examples for each operation and phase]
"""

import subprocess
import sys

from bench_serve import OURS, served
from conditions import embedded_model, peer_python

PORT = 8601


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else str(embedded_model())
    examples = sys.argv[2] if len(sys.argv) > 2 else "100"
    tool = peer_python("schemathesis", "schemathesis>=4").with_name("schemathesis")
    with served(OURS, model, PORT):
        words = ["run", f"http://127.0.0.1:{PORT}/openapi.json", "-n", examples, "--generation-deterministic"]
        done = subprocess.run([str(tool), *words, "--exclude-checks", "positive_data_acceptance"], check=False)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
