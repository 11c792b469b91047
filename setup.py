"""Package metadata; the settings of tools are in ``pyproject.toml``."""

from pathlib import Path

from setuptools import find_packages, setup

version: dict[str, str] = {}
exec((Path(__file__).parent / "gateway" / "_version.py").read_text("ascii"), version)  # noqa: S102 (our own file)

# What the Makefile has installed from npm: of each package all that is served, and its licences.
packages = "npm/node_modules"
viewers = [
    "npm/*.json",
    f"{packages}/@novnc/novnc/[ALdp]*",
    f"{packages}/@novnc/novnc/docs/LICENSE*",
    f"{packages}/@novnc/novnc/core/**/*.js",
    f"{packages}/@novnc/novnc/vendor/pako/**/*",
    f"{packages}/@spice-project/spice-html5/COPYING*",
    f"{packages}/@spice-project/spice-html5/package.json",
    f"{packages}/@spice-project/spice-html5/src/*.js",
    f"{packages}/@spice-project/spice-html5/src/thirdparty/*.js",
    f"{packages}/@xterm/*/LICENSE",
    f"{packages}/@xterm/*/package.json",
    f"{packages}/@xterm/*/lib/*.mjs",
    f"{packages}/@xterm/xterm/css/xterm.css",
]

setup(
    name="vm-gateway",
    version=version["__version__"],
    description="The one door between people who use virtual machines and the hypervisors",
    long_description=(Path(__file__).parent / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # An explicit empty directory keeps editable installs a plain path entry, so that twistd
    # finds the plugin.
    package_dir={"": "."},
    packages=[*find_packages(include=["gateway", "gateway.*"]), "twisted.plugins"],
    package_data={
        "gateway": ["py.typed"],
        "gateway.wire": ["*.tsv"],
        "gateway.web": ["admin/*", "static/*", *viewers],
    },
    install_requires=[
        "Twisted[tls]>=26.4.0",
        "pyOpenSSL>=26.0.0",
        "service-identity>=24.2.0",
        "autobahn>=26.10.1",
        "treq>=24.9.1",
        "PyJWT[crypto]>=2.15.0",
        "cryptography>=45",
        "pydantic>=2.10",
        "attrs>=24.2",
        "prometheus-client>=0.21",
    ],
    extras_require={
        "test": [
            "pytest>=8",
            "pytest-twisted>=1.14",
            "pytest-timeout>=2.3",
            "hypothesis>=6.100",
            # An independent reader of HTTP, to compare with.
            "h11>=0.16.0",
            # Independent readers of websockets: a library to compare with, and the cases of conformance.
            "wsproto>=1.2",
            "kosoku>=0.1.0",
            "coverage>=7.6",
            "ruff>=0.8",
            "mypy>=1.13",
            "mypy-zope>=1.0.8",
            "selenium>=4.25",
            # The real peers, run as separate processes.
            "ovirt-imageio>=2.5.1",
            "userstorage>=0.5",
            "websockify>=0.13",
            "numpy>=1.26",
            # What calls to hypervisors are compared with; it is built, with gcc and libvirt-dev.
            "libvirt-python>=9.0",
        ],
    },
    entry_points={
        "console_scripts": [
            "gatewayctl = gateway.ctl:main",
            "gateway-connect = gateway.ctl.connect:main",
        ]
    },
    classifiers=[
        "Framework :: Twisted",
        "Programming Language :: Python :: 3.11",
    ],
)
