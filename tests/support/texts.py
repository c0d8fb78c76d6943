"""Prompts as people, programs and fuzzers write them; the same ones for the same count."""

import random

_SCRIPTS = {
    "latin": (0x41, 0x17F),
    "greek": (0x370, 0x3FF),
    "cyrillic": (0x400, 0x4FF),
    "hebrew": (0x590, 0x5FF),
    "arabic": (0x600, 0x6FF),
    "devanagari": (0x900, 0x97F),
    "thai": (0xE00, 0xE7F),
    "hangul": (0xAC00, 0xAD00),
    "kana": (0x3040, 0x30FF),
    "han": (0x4E00, 0x4F00),
    "forms": (0xFB00, 0xFB4F),  # ligatures, which NFC keeps
    "full width": (0xFF00, 0xFF60),
    "signs": (0x2000, 0x206F),  # spaces of many widths, joiners, directions
    "symbols": (0x2100, 0x27BF),
    "emoji": (0x1F300, 0x1FAFF),
    "mathematical": (0x1D400, 0x1D4FF),  # capitals that have no lower case
    "control": (0x00, 0x20),
    "more control": (0x7F, 0xA0),
    "combining": (0x300, 0x36F),
    "private": (0xE000, 0xE020),
    "last plane": (0x10FFF0, 0x10FFFF),
}
_WORDS = """a red Heart, cat FACE in the style of van Gogh highly-detailed 8k 4K f/1.8 50mm C++
    don't it's WE'VE they'll I'd you're I'm rock'n'roll 3.14 100% 2,000 ?! !!! ... --
    (masterpiece:1.2) <|startoftext|> <|endoftext|> <|ENDOFTEXT|> </w> <x> <cat-toy> [blurry]
    \\( \\) BREAK x&#39;s &amp; <b>bold</b> Straße İstanbul ǅungla ﬁancé
    e\u0301 \u0301 \u00a0 \u200b \ufeff naïve São ｆｕｌｌ 日本語 猫 한국어 قطة חתול
    кошка γάτα บ้าน""".split()
_EMOJI = (
    "\U0001f469\u200d\U0001f469\u200d\U0001f467",  # a family, joined
    "\U0001f3f3\ufe0f\u200d\U0001f308",
    "\U0001f44d\U0001f3fd",
    "\U0001f1ef\U0001f1f5",
    "1\ufe0f\u20e3",
    "\u2764\ufe0f",
    "\U0001f600",
)
_EDGES = [
    *("", " ", "   \t\n  ", "\r\n", "\x00", "a\x00b", "\u200d", "\u0301", "'", "''s"),
    *("<|endoftext|>", "<|startoftext|><|endoftext|>", "a<|endoftext|>b", " <|ENDOFTEXT|> "),
    *("A" * 2000, "!" * 300, "12345678901234567890", "\u202eabc\u202c"),
    "a\u0301\u0302\u0303" * 40,
]


def generated_prompts(count):
    """`count` texts of many scripts, lengths and oddities, the empty one and spaces among them."""
    rng = random.Random(0)
    kinds = (_characters, _words, _mixture)
    texts = list(_EDGES)
    for words in (499, 500, 501):
        texts.append(" ".join(rng.choices(_WORDS, k=words)))
    while len(texts) < count:
        texts.append(kinds[len(texts) % len(kinds)](rng))
    return texts[:count]


def _characters(rng):
    """Characters of one or two scripts, spaces between."""
    ranges = [_SCRIPTS[name] for name in rng.sample(sorted(_SCRIPTS), k=rng.randint(1, 2))]
    letters = [chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(0, 60))]
    return "".join(rng.choice(("", "", "", " ")) + letter for letter in letters)


def _words(rng):
    """Words as in prompts, one in seven an emoji of several characters."""
    words = rng.choices((*_WORDS, *_EMOJI), k=rng.randint(1, 40))
    return "".join(word + rng.choice((" ", " ", ", ", "  ", "\n", "")) for word in words)


def _mixture(rng):
    """Words and characters of any script in turn."""
    return "".join(rng.choice((_words, _characters))(rng) for _ in range(rng.randint(1, 3)))
