"""The side of the first system in `goto.py`: GOTO's trials in Keras on TensorFlow, a model built and fitted for each,
one after another, validated after every epoch. Everything that the first system leaves to Keras is left to it."""

import argparse

import goto_grid
import numpy as np
from goto_grid import BATCH, DENSE, L2, MASK, Found, Train, Trial


def prepare(options: argparse.Namespace) -> Train:
    import keras
    import tensorflow as tf
    from keras import layers

    if options.threads:
        tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    keras.utils.set_random_seed(1)
    train, validation, weights = goto_grid.read(options.data)
    truth = np.eye(len(weights), dtype=np.float32)

    def network(trial: Trial) -> keras.Model:
        layer = {"gru": layers.GRU, "lstm": layers.LSTM}[trial.cell]
        series, context = keras.Input(train.series.shape[1:]), keras.Input(train.context.shape[1:])
        values = layers.Masking(MASK)(series)
        for steps in (True, False):
            values = layer(trial.units, return_sequences=steps)(values)
            values = layers.BatchNormalization()(layers.Dropout(trial.dropout)(values))
        values = layers.Dense(DENSE, activation="sigmoid")(layers.concatenate([values, context]))
        values = layers.BatchNormalization()(layers.Dropout(trial.dropout)(values))
        values = layers.Dense(DENSE, activation="sigmoid", kernel_regularizer=keras.regularizers.L2(L2))(values)
        return keras.Model([series, context], layers.Dense(len(weights), activation="softmax")(values))

    def trained(trial: Trial, epochs: int) -> Found:
        def focal(labels: tf.Tensor, shares: tf.Tensor) -> tf.Tensor:
            chosen = tf.clip_by_value(tf.reduce_sum(labels * shares, axis=-1), keras.config.epsilon(), 1.0)
            weight = tf.reduce_sum(labels * weights, axis=-1)
            return -weight * (1 - chosen) ** trial.gamma * tf.math.log(chosen)

        keras.backend.clear_session()
        made = network(trial)
        made.compile(keras.optimizers.Adam(trial.learning_rate), loss=focal, metrics=["accuracy"])
        history = made.fit(
            [train.series, train.context],
            truth[train.labels],
            batch_size=BATCH,
            epochs=epochs,
            validation_data=([validation.series, validation.context], truth[validation.labels]),
            verbose=0,
        ).history
        parameters = sum(int(np.prod(values.shape)) for values in made.trainable_weights)
        # Keras counts the penalty in
        loss = history["val_loss"][-1] - sum(float(penalty) for penalty in made.losses)
        return Found(parameters, loss, float(history["val_accuracy"][-1]))

    return trained


if __name__ == "__main__":
    goto_grid.run(__doc__, prepare)
