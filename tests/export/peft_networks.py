"""Networks that PEFT adapts in a process of its own."""

from torch import nn


class Convolutions(nn.Module):
    """Three convolutions, one with groups, and a classifier."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding="same")
        self.grouped = nn.Conv2d(8, 12, 3, stride=2, groups=4)
        self.last = nn.Conv2d(12, 6, 1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = self.first(x).tanh()
        x = self.norm(self.last(self.grouped(x).tanh()))
        return self.head(x.mean(dim=(2, 3)))


class OtherAxes(nn.Module):
    """Convolutions of one and of three axes."""

    def __init__(self):
        super().__init__()
        self.long = nn.Conv1d(3, 8, 5, stride=2, padding=1)
        self.grouped = nn.Conv1d(8, 8, 3, groups=2)
        self.deep = nn.Conv3d(2, 6, (2, 1, 3), padding=(1, 0, 1))

    def forward(self, x):
        x = self.grouped(self.long(x).tanh()).tanh()
        return self.deep(x.view(len(x), 2, 2, 2, -1)).flatten(1)


class Attention(nn.Module):
    """PyTorch's attention between two linear layers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.first(x).tanh()
        return self.head(self.attention(x, x, x)[0])


class Endings(nn.Module):
    """Layers whose names are the ends of others' names."""

    def __init__(self):
        super().__init__()
        self.a, self.x = nn.Module(), nn.Module()
        self.a.b, self.x.a, self.c, self.xc = (
            nn.Linear(4, 4),
            nn.Module(),
            nn.Linear(4, 4),
            nn.Linear(4, 4),
        )
        self.x.a.b = nn.Linear(4, 4)

    def forward(self, x):
        return self.xc(self.c(self.x.a.b(self.a.b(x).tanh()).tanh()).tanh())
