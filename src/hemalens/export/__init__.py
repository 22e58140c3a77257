"""From torch to files that run without it: ONNX with its proof of parity, and the competition's zip."""
