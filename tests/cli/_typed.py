"""Numbers as people type them, in a terminal and into the page: what each means, or that it is refused."""

TYPED: dict[str, float | None] = {
    "1e20": 1e20, "1.5e20": 1.5e20, "1,5e20": 1.5e20, "1,500e20": 1.5e20, "1E20": 1e20,
    "1T": 1e12, "1.5 B": 1.5e9, "1,5B": 1.5e9, "300M": 3e8, "70k": 7e4, "3 million": 3e6,
    "2 trillion tokens": 2e12, "1 ZFLOPs": 1e21, "5 EFLOP": 5e18, "1e20 FLOPs": 1e20,
    "10^20": 1e20, "10**20": 1e20, "10²⁰": 1e20, "3×10²⁰": 3e20, "3x10^20": 3e20, "3 * 10^20": 3e20,
    "2,5·10^20": 2.5e20, "2,50": 2.5, "2.50": 2.5, "0,125": 0.125, "1,2345": 1.2345,
    "1,234,567": 1234567.0, "1.234.567": 1234567.0, "1 000 000": 1e6, "1_000_000": 1e6,
    "1'000'000": 1e6, "12,345.6": 12345.6, "~7B": 7e9,
    "2,500": None, "1,500M": None, "1,500×10^3": None, "abc": None, "1e": None, "1Q": None, "1,2,3": None,
    "0x10": None, "1e20e3": None, "1..5": None, "--1": None, "10^": None, "e20": None, "5 apples": None,
}  # fmt: skip
