"""TensorFlow's side of `benchmarks.compare_input`: tf.data that decodes no more of a JPEG than the crop.

With the argument "antialias" it resizes as the other sides do, without it as is usual for ImageNet.
"""

from collections.abc import Iterator

import tensorflow as tf

from benchmarks.input_turns import Work, serve


def open_batches(work: Work, options: list[str]) -> Iterator[tf.Tensor]:
    """The usual pipeline of training on ImageNet, without conversion to float."""
    antialias = "antialias" in options
    images = sorted(map(str, work.folder.glob("*/*.jpg")))
    classes = sorted({path.name for path in work.folder.iterdir()})
    labels = [classes.index(image.split("/")[-2]) for image in images]

    def load(path: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        data = tf.io.read_file(path)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(data),
            tf.zeros([1, 0, 4]),
            area_range=work.area,
            aspect_ratio_range=work.aspects,
            max_attempts=10,
            min_object_covered=0.0,
            use_image_if_no_bounding_boxes=True,
        )
        image = tf.image.decode_and_crop_jpeg(data, tf.concat([begin[:2], size[:2]], 0), channels=3)
        image = tf.image.resize(image, [work.size, work.size], "bicubic", antialias=antialias)
        return tf.saturate_cast(tf.round(image), tf.uint8), label

    examples = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(len(images)).repeat()
    batches = examples.map(load, num_parallel_calls=work.workers).batch(work.batch).prefetch(2)
    threads = tf.data.Options()
    threads.threading.private_threadpool_size = work.workers
    return iter(batches.with_options(threads))


if __name__ == "__main__":
    serve(open_batches)
