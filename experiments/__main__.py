from core.listing import show

if __name__ == "__main__":
    show()
