from core.cli.list import show

if __name__ == "__main__":
    show()
