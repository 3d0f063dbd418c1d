"""A classifier as a file for other programs: ONNX, torch.export, AOTInductor."""
