"""One sprint: minutes of trainings on a borrowed GPU, that go on from earlier ones. See docs/gpu.md."""
