"""Predict images with an exported network; needs onnxruntime, numpy and Pillow, and nothing of barm.

python onnx_predict.py barm.onnx photo.jpg ...     writes photo_mask.png beside where it is called, for each
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["barm"])
for path in map(Path, sys.argv[2:]):
    image = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    (labels,) = session.run(["labels"], {"image": image[None]})  # (1, H, W): positions in class_names
    mask = Image.fromarray(labels[0])
    mask.putpalette(np.array(about["colours"], np.uint8).tobytes())
    mask.save(f"{path.stem}_mask.png")
    seen = [about["class_names"][i] for i in np.unique(labels) if i]
    print(f"{path.stem}_mask.png: {', '.join(seen) or 'background only'}")
