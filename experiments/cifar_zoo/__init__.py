"""Which architecture is most accurate on CIFAR-10 with the same training recipe?

    python -m experiments.cifar_zoo --root PATH                    MobileNet v3, the fastest
    python -m experiments.cifar_zoo --variant resnet18             with a CIFAR stem, as a baseline
    python -m experiments.cifar_zoo --variant vit --seeds 3

Networks for ImageNet downsample images by a factor of 32, or divide them into 16x16 patches. They receive images
resized to 128 pixels, so that their last feature maps are 4x4, as those of ResNet-18 with a CIFAR stem at 32 pixels.

Expected: after one epoch, ResNet-18 reaches 65.27 %, the most of four networks (CIFAR-10 (JPEG), n = 2); 60 epochs are
not measured. README.md has parameters, FLOPs and speed.
"""

from core.experiment import Experiment
from core.losses import CrossEntropy
from core.models import ResNet, Torchvision
from core.optimizers import AdamW
from core.schedules import Cosine
from data import Cifar10
from experiments.recipes import CROP_AND_FLIP

ENLARGED = 128

EXPERIMENT = Experiment(
    data=Cifar10(),
    model=Torchvision(name="mobilenet_v3_small", resize=ENLARGED, norm_momentum=0.1),
    augment=CROP_AND_FLIP,
    loss=CrossEntropy(label_smoothing=0.1),
    optimizer=AdamW(lr=1e-3, weight_decay=0.05),
    schedule=Cosine(warmup_epochs=3),
    clip_grad_norm=1.0,
    epochs=60,
    batch_size=128,
)
VARIANTS = {
    "resnet18": {"model": ResNet(depth=18, stem="cifar")},
    "shufflenet": {"model": Torchvision(name="shufflenet_v2_x1_0", resize=ENLARGED)},
    "vgg": {"model": Torchvision(name="vgg11_bn", resize=ENLARGED)},
    "efficientnet": {"model": Torchvision(name="efficientnet_b0", resize=ENLARGED)},
    "inception": {"model": Torchvision(name="inception_v3", resize=ENLARGED)},
    "vit": {"model": Torchvision(name="vit_b_16", resize=ENLARGED)},
}
