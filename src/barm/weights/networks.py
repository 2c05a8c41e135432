"""Recognise networks of other libraries by the names of their tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from barm.models.efficientnet import timm_name
from barm.weights.analytic import find_regression, kind_of_regression
from barm.weights.kind import ADOPTED, OWN, Kind, State, Use
from barm.weights.steps import network_with_steps
from barm.words import count

ADOPT = "`barm extend {path} --data NEW --out RUN` teaches it new classes (docs/models.md)"
FOLDER = "save its folder with `model.save_pretrained(FOLDER)` and give that"
BACKBONE = "it can be a backbone's initial weights: `--set model.backbone={name} --set model.weights={{path}}`"
NOT = f"barm cannot go on from it; {OWN}"
PYTHON = f"from Python {ADOPTED}"
TORCHVISION = (  # networks that barm takes; of others it knows the names
    "fcn_resnet50",
    "fcn_resnet101",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "deeplabv3_mobilenet_v3_large",
    "lraspp_mobilenet_v3_large",
)
TIMM = "the timm name of the same network"
WRAPPERS = 3  # prefixes such as ``module.model.`` in each other
MOST = 0.8  # share of the names that a wrapper's prefix has
OTHERS: tuple[tuple[tuple[str, ...], str], ...] = (  # names that all occur, and what has them
    (
        ("model.pixel_level_module.",),
        "a Mask2Former or MaskFormer network of transformers, which gives masks, no logits",
    ),
    (("roi_heads.box_predictor.cls_score.weight", "roi_heads.mask_predictor."), "torchvision's Mask R-CNN, a detector"),
    (("roi_heads.box_predictor.cls_score.weight", "roi_heads.keypoint_predictor."), "torchvision's Keypoint R-CNN"),
    (("roi_heads.box_predictor.cls_score.weight",), "torchvision's Faster R-CNN, a detector"),
    (("head.classification_head.",), "a one-stage detector of torchvision (RetinaNet, FCOS or SSD)"),
    (("proposal_generator.",), "a detector of detectron2"),
    (("sem_seg_head.",), "a segmentation network of detectron2"),
    (("bbox_head.",), "a detector of MMDetection"),
    (("rpn_head.",), "a detector of MMDetection"),
    (("class_embed.*", "bbox_embed.*"), "a DETR, a detector"),
    (("image_encoder.", "mask_decoder."), "Segment Anything (SAM), whose masks have no classes"),
    (("sam_mask_decoder.",), "Segment Anything 2, whose masks have no classes"),
    (("visual.*", "token_embedding.weight"), "a CLIP network of images and texts"),
    (("model.diffusion_model.",), "a diffusion model (Stable Diffusion)"),
    (("first_stage_model.",), "a diffusion model (Stable Diffusion)"),
    (("lm_head.weight",), "a language model"),
    (("model.embed_tokens.weight",), "a language model"),
    (("transformer.wte.weight",), "a language model (GPT)"),
    (("wte.weight", "wpe.weight"), "a language model (GPT-2)"),
    (("tok_embeddings.weight",), "a language model (Llama)"),
    (("embeddings.word_embeddings.weight",), "a language model (BERT)"),
    (("bert.embeddings.",), "a language model (BERT)"),
)
DECODERS: tuple[tuple[str, str], ...] = (
    ("decoder.blocks.x_0_0.", "UnetPlusPlus"),
    ("decoder.mlp_stage.", "Segformer"),
    ("decoder.feature_norms.", "UPerNet"),
    ("decoder.aspp.0.convs.", "DeepLabV3Plus"),
    ("decoder.aspp.convs.", "DeepLabV3"),
    ("decoder.0.convs.", "DeepLabV3"),
    ("decoder.p5.", "FPN"),
    ("decoder.center.top_conv.*", "MAnet"),
    ("decoder.psp.", "PSPNet"),
    ("decoder.fpa.", "PAN"),
    ("decoder.projection_blocks.", "DPT"),
    ("decoder.blocks.0.block.", "Linknet"),
    ("decoder.blocks.0.conv1.", "Unet"),
)
CLASSIFIERS: tuple[tuple[tuple[str, ...], str, str], ...] = (  # names, title, the backbone's name in timm if it is one
    (("patch_embed.proj.weight", "blocks.0.attn.qkv.weight"), "a vision transformer in timm's names", TIMM),
    (("patch_embed.proj.weight", "layers.0.blocks.0.attn.*"), "a Swin transformer in timm's names", TIMM),
    (("conv_stem.weight", "blocks.0.0.*"), "an EfficientNet or MobileNet in timm's names", TIMM),
    (("stem.*", "stages.0.*"), "an image classifier in timm's names", TIMM),
    (("stem.*", "s1.", "s2."), "an image classifier in timm's names", TIMM),
    (("stem_0.weight", "stages_0.*"), "an image classifier in timm's names", TIMM),
    (("encoder.layers.encoder_layer_0.", "conv_proj.weight"), "torchvision's vision transformer", ""),
    (("features.denseblock1.",), "torchvision's DenseNet", ""),
    (
        ("features.0.0.weight", "features.18.0.weight", "classifier.1.weight"),
        "torchvision's MobileNetV2",
        "deeplab_mobilenetv2",
    ),
    (("features.0.0.weight", "classifier.*"), "an image classifier of torchvision", ""),
    (("features.0.0.weight", "head.weight"), "torchvision's Swin transformer", ""),
    (("features.0.weight", "classifier.6.weight"), "torchvision's VGG or AlexNet", ""),
    (("embeddings.*", "encoder.layer.0.attention.*"), "a transformer in the names of transformers", ""),
)


def network_of(state: State) -> Kind:
    """The kind of a state dict, with or without a wrapper's prefix such as ``module.`` or ``model.``."""
    found = find_regression(state, [prefix for prefix, _ in unwrapped(state)])
    if found is not None:
        return kind_of_regression(state, found)
    for _, inner in unwrapped(state):
        for rule in RULES:
            if (kind := rule(inner)) is not None:
                return kind
    return _unknown(state)


def unwrapped(state: State) -> Iterator[tuple[str, State]]:
    """A state dict as it is, and then without the prefix that most of its names have, and so on.

    Yields:
        The prefix, such as ``module.model.``, and the tensors below it. Names without it are left out.
    """
    prefix = ""
    for _ in range(WRAPPERS):
        yield prefix, state
        first, number = Counter(name.split(".")[0] for name in state.tensors).most_common(1)[0]
        inner = state.without(f"{first}.")
        if number < MOST * len(state.tensors) or not inner.tensors:
            return
        prefix, state = f"{prefix}{first}.", inner


def torchvision_name(state: State) -> str:
    """Name of torchvision's segmentation network that has these tensors, also of one that barm does not take.

    Empty if there is none.
    """
    mobile = state.has("backbone.0.0.weight", "backbone.1.block.")
    backbone = "mobilenet_v3_large" if mobile else state.resnet("backbone.")
    if not backbone:
        return ""
    if state.has("classifier.cbr.0.weight", "classifier.low_classifier.weight", "classifier.high_classifier.weight"):
        return f"lraspp_{backbone}"
    if state.has("classifier.0.convs.0.0.weight", "classifier.4.weight"):
        return f"deeplabv3_{backbone}"
    return f"fcn_{backbone}" if state.has("classifier.0.weight", "classifier.4.weight") else ""


def _torchvision(state: State) -> Kind | None:
    name = torchvision_name(state)
    if not name:
        return None
    last = "classifier.high_classifier.weight" if name.startswith("lraspp") else "classifier.4.weight"
    outputs = state.outputs(last)
    title = f"torchvision's {name}, {_outputs(outputs)}"
    if name not in TORCHVISION:
        advice = f"of torchvision's names barm takes {', '.join(TORCHVISION)}; {PYTHON}"
        return Kind("torchvision", title, advice, "none", name, outputs)
    use: Use = "import" if name in ("deeplabv3_resnet50", "deeplabv3_resnet101") else "adopt"
    return Kind("torchvision", title, ADOPT, use, name, outputs)


def _smp(state: State) -> Kind | None:
    head = next((n for n in ("0", "head.4") if state.has(f"segmentation_head.{n}.weight")), None)
    if head is None or not state.has("encoder.*", "decoder.*"):
        return None
    outputs = state.outputs(f"segmentation_head.{head}.weight")
    name = next((name for prefix, name in DECODERS if state.has(prefix)), "network")
    encoder = state.resnet("encoder.")
    what = f"{name}{f' on {encoder}' if encoder else ''}"
    title = f"the state dict of segmentation_models_pytorch's {what}, {_outputs(outputs)}"
    return Kind("smp-state", title, f"it does not say how it was made; {FOLDER}", "none", name, outputs)


def _mmsegmentation(state: State) -> Kind | None:
    if not state.has("decode_head.conv_seg.weight"):
        return None
    outputs = state.outputs("decode_head.conv_seg.weight")
    title = f"a segmentation network of MMSegmentation, {_outputs(outputs)}"
    return Kind("mmsegmentation", title, f"{PYTHON}; {OWN}", "none", state.resnet("backbone."), outputs)


def _transformers(state: State) -> Kind | None:
    outputs = state.outputs("decode_head.classifier.weight")
    if outputs is None:
        return None
    name = "SegFormer" if state.has("segformer.") else "UPerNet"
    title = f"the state dict of transformers' {name}, {_outputs(outputs)}"
    return Kind("transformers-state", title, f"it does not say how it was made; {FOLDER}", "none", name, outputs)


def _nnunet(state: State) -> Kind | None:
    if not state.has("encoder.stages.", "decoder.seg_layers."):
        return None
    layers = [n for n in state.tensors if n.startswith("decoder.seg_layers.") and n.endswith(".weight")]
    outputs = state.outputs(layers[-1])
    return Kind("nnunet", f"a network of nnU-Net, {_outputs(outputs)}", NOT, "none", "nnU-Net", outputs)


def _ultralytics(state: State) -> Kind | None:
    if not state.has("model.0.conv.weight", "model.1.conv.weight"):
        return None
    return Kind("ultralytics", "a YOLO network of ultralytics, a detector", NOT, "none", "YOLO")


def _adapters(state: State) -> Kind | None:
    if not any(".lora_A." in name or ".lora_down." in name for name in state.tensors):
        return None
    advice = "they are of use with their base network alone: merge them there, and give what that becomes"
    return Kind("network", "LoRA adapters, not a network", advice)


def _other(state: State) -> Kind | None:
    name = next((name for names, name in OTHERS if state.has(*names)), None)
    return None if name is None else Kind("network", name, NOT)


def _classifier(state: State) -> Kind | None:
    resnet = state.resnet()
    if resnet:
        outputs = state.outputs("fc.weight")
        advice = BACKBONE.format(name=f"{resnet}.tv_in1k" if resnet in ("resnet50", "resnet101") else resnet)
        what = "an image classifier" if outputs else "a backbone without a classifier"
        title = f"{resnet}, {what}{f' with {_outputs(outputs)}' if outputs else ''}"
        return Kind("timm", title, advice, "backbone", resnet, outputs)
    named = timm_name(state.tensors)
    if named is not None:
        outputs = state.outputs("_fc.weight")
        title = f"{named} in the names of efficientnet_pytorch, an image classifier with {_outputs(outputs)}"
        return Kind("timm", title, BACKBONE.format(name=named), "backbone", named, outputs)
    for names, title, timm in CLASSIFIERS:
        if state.has(*names):
            if not timm:
                return Kind(
                    "network", title, "barm takes backbones in timm's names: give timm's weights of that network"
                )
            known = timm != TIMM
            advice = BACKBONE.format(name=timm if known else "NAME") + ("" if known else f", NAME being {timm}")
            outputs = next((state.outputs(n) for n in ("head.weight", "head.fc.weight", "classifier.weight")), None)
            return Kind("timm", title, advice, "backbone", "" if not known else timm, outputs)
    return None


def _unet(state: State) -> Kind | None:
    if not state.has("inc.double_conv.0.weight", "outc.conv.weight"):
        return None
    outputs = state.outputs("outc.conv.weight")
    return Kind("network", f"the U-Net of PyTorch-UNet, {_outputs(outputs)}", PYTHON, "none", "U-Net", outputs)


def _unknown(state: State) -> Kind:
    title = f"a state dict of {count(len(state.tensors), 'tensors')} of a network that barm does not know"
    first = next(iter(state.tensors), "")
    advice = f"if it is a network of your own, {PYTHON}"
    return Kind("state", f"{title} (first '{first}')" if first else title, advice)


def _outputs(number: int | None) -> str:
    return "outputs unknown" if number is None else count(number, "outputs")


RULES: tuple[Callable[[State], Kind | None], ...] = (
    network_with_steps,
    _torchvision,
    _smp,
    _adapters,
    _mmsegmentation,
    _transformers,
    _nnunet,
    _unet,
    _other,
    _ultralytics,
    _classifier,
)
