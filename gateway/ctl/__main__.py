"""``python -m gateway.ctl`` is ``gatewayctl``."""

from gateway.ctl import main

if __name__ == "__main__":
    main()
