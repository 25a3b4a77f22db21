"""The recipes: differences from TrainConfig's defaults, each with its command, machine and result."""

from gcvit_flax.training.train_config import TrainConfig

PRESETS = {
    "digits": TrainConfig(
        data="digits",
        embed_dim=32,
        depths=(2, 2, 2, 2),
        num_heads=(2, 4, 8, 16),
        window_size=(4, 4, 2, 1),
        drop_path_rate=0.05,
        image_size=32,
        epochs=18.0,
        learning_rate=2e-3,
        crop_area=(0.6, 1.0),
        flip=False,
        color_jitter=0.0,
        val_fraction=0.2,
    ),
    "finetune": TrainConfig(
        epochs=20.0,
        batch_size=32,
        learning_rate=5e-4,
        layer_decay=0.8,
    ),
    # The Keras example's run (architecture and optimizer as in "Image Classification using Global Context Vision
    # Transformer", keras.io): Adam with Keras's epsilon at a constant rate, whole images resized, mirrored only.
    "flowers": TrainConfig(
        data="tfds:tf_flowers",
        reference="keras_io",
        image_size=224,
        epochs=5.0,
        batch_size=32,
        learning_rate=1e-3,
        schedule="constant",
        warmup_epochs=0.0,
        weight_decay=0.0,
        adam_epsilon=1e-7,
        clip_norm=None,
        label_smoothing=0.0,
        squash=True,
        color_jitter=0.0,
    ),
    # The official ImageNet recipe (paper, section 4.1, and the published training configurations).
    "imagenet": TrainConfig(
        data="tfds:imagenet2012",
        variant="gcvit_tiny",
        epochs=310.0,
        cooldown_epochs=10.0,
        batch_size=None,
        learning_rate=5e-3,
        scale_learning_rate=True,
        warmup_epochs=20.0,
        ema_decay=0.9998,
        crop_area=(0.08, 1.0),
        color_jitter=0.0,
        rand_augment=9.0,
        random_erasing=0.25,
        mixup=0.8,
        cutmix=1.0,
        dtype="bfloat16",
        log_every=50,
    ),
}

PRESET_HELP = {
    "digits": """Learns the 1,797 handwritten digits that come with the package.

    python train.py

    Two CPU cores, two to three minutes, half of one compiling: 97 to 98.6 % of the held-out digits, by the seed.
    """,
    "finetune": """Trains any variant on a folder of images or a prepared data set, from scratch or --init-from.

    python train.py finetune --data folder:PHOTOS --init-from weights/gcvit_xxtiny
    python train.py finetune --data folder:PHOTOS --image-size 96 --embed-dim 32 --epochs 30

    One GPU, or a small network on a CPU. With --init-from, layers far from the head learn more slowly
    (--layer-decay), and --head-only trains nothing but the head. Measured on a CPU: docs/results.md.
    """,
    "flowers": """The Keras example's run: five epochs on tf_flowers, Adam at a constant rate, whole images resized.

    python train.py flowers --init-from weights/gcvit_xxtiny     # converted with --reference keras_io
    python train.py flowers                                      # from scratch

    One GPU. The Keras example reports 92.1 % validation accuracy from the published ImageNet weights (not measured
    here). tf_flowers is downloaded and prepared on first use, the last tenth of it held out.
    """,
    "imagenet": """The official ImageNet-1k recipe: 320 epochs, and the averaged parameters are the result.

    python train.py imagenet --variant gcvit_tiny --workdir gs://BUCKET/gcvit_tiny

    A TPU slice or a machine of GPUs; docs/cloud_tpu.md says how to prepare the data. The batch is the published one,
    4096 up to gcvit_tiny2 and 1024 from gcvit_small on; another --batch-size scales the learning rate with it, and
    --accumulation-steps fits it into less memory. Published top-1 (GCViT's own repository, 2023): xxtiny 79.9,
    xtiny 82.0, tiny 83.5, tiny2 83.7, small 84.3, small2 84.8, base 85.0, large 85.7 (not measured here).
    """,
}
