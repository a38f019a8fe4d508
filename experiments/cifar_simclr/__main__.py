from core.cli.main import experiment

if __name__ == "__main__":
    experiment(__package__)
