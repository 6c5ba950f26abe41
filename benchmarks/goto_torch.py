"""The PyTorch side of `goto.py`: GOTO's trials, one model after another, validated after every epoch."""

import argparse

import goto_grid
from goto_grid import BATCH, DENSE, L2, Found, Train, Trial


def prepare(options: argparse.Namespace) -> Train:
    import torch
    from torch import nn

    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    *splits, class_weights = goto_grid.read(options.data)
    train, validation = (tuple(map(torch.from_numpy, split)) for split in splits)
    weights = torch.from_numpy(class_weights)
    # nn.GRU and nn.LSTM of their fused kernels take no mask; the sample has no padding
    assert not (splits[0].series == goto_grid.MASK).any()

    class Network(nn.Module):
        """The network of config/goto.yaml."""

        def __init__(self, trial: Trial) -> None:
            super().__init__()
            features, columns = train[0].shape[2], train[1].shape[1]
            layer = {"gru": nn.GRU, "lstm": nn.LSTM}[trial.cell]
            self.first, self.second = (layer(width, trial.units, batch_first=True) for width in (features, trial.units))
            self.norms = nn.ModuleList([nn.BatchNorm1d(trial.units) for _ in range(2)])
            self.drop = nn.Dropout(trial.dropout)
            self.dense = nn.Sequential(
                nn.Linear(trial.units + columns, DENSE),
                nn.Sigmoid(),
                nn.Dropout(trial.dropout),
                nn.BatchNorm1d(DENSE),
            )
            self.penalised = nn.Linear(DENSE, DENSE)
            self.classes = nn.Linear(DENSE, len(weights))

        def forward(self, series: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
            states = self.norms[0](self.drop(self.first(series)[0]).transpose(1, 2)).transpose(1, 2)
            last = self.norms[1](self.drop(self.second(states)[0][:, -1]))
            joined = self.dense(torch.cat([last, context], dim=1))
            return self.classes(torch.sigmoid(self.penalised(joined)))

    def focal(logits: torch.Tensor, labels: torch.Tensor, gamma: float) -> torch.Tensor:
        chosen = torch.log_softmax(logits, dim=1).gather(1, labels[:, None])[:, 0]
        return -(weights[labels] * (1 - chosen.exp()) ** gamma * chosen).mean()

    def trained(trial: Trial, epochs: int) -> Found:
        network = Network(trial)
        adam = torch.optim.Adam(network.parameters(), trial.learning_rate)
        loss, accuracy = float("nan"), float("nan")
        for _ in range(epochs):
            network.train()
            for rows in torch.randperm(len(train[2])).split(BATCH):
                series, context, labels = (values[rows] for values in train)
                adam.zero_grad()
                penalty = L2 * network.penalised.weight.square().sum()
                (focal(network(series, context), labels, trial.gamma) + penalty).backward()
                adam.step()
            network.eval()
            with torch.no_grad():
                logits = network(*validation[:2])
                loss = float(focal(logits, validation[2], trial.gamma))
                accuracy = float((logits.argmax(dim=1) == validation[2]).float().mean())
        return Found(sum(values.numel() for values in network.parameters()), loss, accuracy)

    return trained


if __name__ == "__main__":
    goto_grid.run(__doc__, prepare)
