"""Decide which expression English prose describes.

The rules are word-based, deterministic and fast. Each word that names or suggests an expression is a piece of evidence.
Its weight is the strength of the word (a label counts more than a mood word) times a factor for its clause: denied
("absence of anger", "rather than fear"), weakened ("with undertones of sadness"), or strengthened ("primarily one of
joy", "sadness as the dominant emotion"). The expression with the highest sum wins.

The rules were developed on half of 600 chains of thought from the released RAF-DB test list and checked on the other
half. tests/explanations/test_chain_of_thought.py states the measured agreement.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache

from explllm.core.expressions import SYNONYMS, Expression
from explllm.explanations.scope import scoped

_LABEL_NOUNS = frozenset({*(expression.lower() for expression in Expression), "neutrality"})
_LABEL_WEIGHT = 3.0
_SYNONYM_WEIGHT = 2.0

# Words that suggest an expression, by weight. A trailing * matches any ending. A word may suggest several expressions.
_HINTS: dict[Expression, dict[float, str]] = {
    Expression.HAPPINESS: {
        1.2: "delight* cheer* amuse* elat* bliss* jubil* glee* merry mirth* pleasure pleased laugh*",
        0.8: "content contented* contentment smil* grin* positiv* playful* enthusias* exuberan* euphor* enjoy*",
        0.4: "warm* welcoming friendl* uplift* lighthearted* satisf* approachab* optimis* pleasant*",
    },
    Expression.SADNESS: {
        1.5: "melanchol* despair* despond* mourn* heartbreak* heartach* dejected dejection gloom*",
        0.8: "distress* disappoint* lament* hopeless* lonel* anguish* bittersweet regret* resignation longing pain*",
        0.4: "vulnerab* introspect* loss heavy heaviness somber* sombre* subdued downcast downturned withdraw* tears",
    },
    Expression.SURPRISE: {
        1.5: "shock* startl* dumbfounded stunned",
        0.8: "unexpected* unforeseen sudden* disbelief awe wonder wonderment bewilder*",
        0.4: "curio* intrigu* excite* alert* wide revelation",
    },
    Expression.FEAR: {
        1.2: "terrify* horror horrified panic* dread*",
        0.9: "anxi* apprehens* threat* danger* frighten* alarm*",
        0.5: "nervous* worr* uneas* unsettl* hypervigilan* vigilan* wariness wary escape",
    },
    Expression.DISGUST: {
        1.5: "distast* avers* repuls* repugn* repell* nause* loath* abhor*",
        0.6: "displeas* unpleasant* discomfort* unpalatable reject* offensive foul",
        0.4: "disapprov* dislike*",
    },
    Expression.ANGER: {
        1.2: "irritat* frustrat* hostil* aggress* outrage* wrath* resent* annoy* indign* irate",
        0.6: "defian* confront* displeas* agitat* provoc* provok* combative conflict",
        0.3: "stern disapprov* dissatisf* tension",
    },
    Expression.CONTEMPT: {
        0.8: "superiority mock* sneer* smug* derision derisive condescend*",
        0.4: "sarcas* smirk* arrogan* dismissive*",
    },
    Expression.NEUTRAL: {
        0.8: "expressionless impassive unemotional emotionless equanimity indifferen* nonchalan*",
        0.5: "calm* composed composure tranquil* seren* placid stoic* detach* balanced equilibrium",
        0.2: "contemplat* reflective reserved thoughtful* observant restrained attentive* steady stable",
    },
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Reversals deny what follows, or subordinate it to something else. Two of them cancel out ("without detracting from the
# joy"), unless they are items of a list ("no anger and no fear").
_REVERSALS = _words(
    "no not non without absence absent lack lacks lacking lacked devoid free void neither nor never cannot than little "
    "unlike exclude excludes excluding instead overshadow overshadows overshadowing outweigh outweighs outweighing "
    "eclipse eclipses eclipsing detract detracts detracting diminish diminishes diminishing undermine undermines "
    "undermining negate negates negating contradict contradicts contradicting dispel dispels dispelling minimize "
    "minimizes minimizing distinct distinguish distinguishes distinguishing distinguishable surpass surpasses "
    "surpassing far counter counters countering override overrides insufficient fails short ruling rules"
)
# A reversal followed by one of these words does not deny anything ("not only joy", "no doubt").
_NO_REVERSAL_BEFORE = {
    "not": _words("only just merely simply solely hide hides conceal mask deny"),
    "cannot": _words("hide conceal mask deny"),
    "no": _words("doubt question ambiguity mistaking"),
    "little": _words("doubt question ambiguity"),
}
# These reverse only with their preposition ("distinct from joy", but "distinct joy").
_REQUIRED_AFTER = {
    "distinct": _words("from"),
    "distinguishable": _words("from"),
    "far": _words("from"),
    "free": _words("from of"),
    "absent": _words("of"),
    "short": _words("of"),
    "ruling": _words("out"),
    "rules": _words("out"),
}

# Weakened: by an attribute or quantifier of the noun ...
_DAMPERS = re.compile(
    r"(?:hint|undertone|overtone|trace|nuance|tinge|touch|layer|shade|glimpse|flicker|undercurrent|element|aspect)"
    r"(?:s|d|ed)?|infused|tempered|moderated|slight|subtle|subtler|mild|minor|faint|secondary|possible|potential"
    r"|initial|initially|brief|fleeting|momentary|some|any|accompanied|alongside|coupled|interwoven|intertwined"
    r"|beneath|influenced|complemented|enriched|mixed|other|lesser|residual|certain|minimal|limited|somewhat|faintly"
    r"|vague|vaguely|modest|modestly|fluctuating|contrasting"
)
# ... by a modifier of the verb ("might suggest joy") ...
_HEDGES = re.compile(r"hint(?:s|ed|ing)?|possibly|potentially|perhaps|might|may|could|slightly|subtly|mildly")
# ... or only by its context.
_WEAK_DAMPERS = _words(
    "with while whereas including associated bordering well underlying sign signs suggestion "
    "suggestions note notes leaning"
)
_BLENDS = _words("blend blended mix mixture")  # applies to both of two expressions
_ASIDE_NOUN = re.compile(r"(?:undertone|overtone|nuance|hint|trace|undercurrent)s?")  # "sadness undertones"
# "Happiness is not evident", "the surprise remains minor".
_COPULA = _words("is are was were remains remain being appears seems")
_DENIED_AFTER = _words("not absent lacking minimal minor negligible secondary overshadowed outweighed ruled excluded")
# Concessions: "Although the smile suggests happiness, ...".
_CONCESSIONS = _words("although though despite while whereas notwithstanding")

# Strengthened: words before and after the expression.
_BOOSTERS = re.compile(
    r"primar\w+|predominan\w+|dominan\w+|dominat\w+|overall|overwhelming\w*|main|mainly|chiefly|categori[sz]\w+"
    r"|classif\w+|identif\w+|label\w*|best|ultimately|indeed|definitive\w*|fundamental\w*|core|essence|essentially"
    r"|prevail\w*|overriding|rooted|conclu\w+|center(?:s|ed)|principal\w*|central|leading|firmly"
)
_BOOST_AFTER = re.compile(
    r"primary|predominan\w+|dominan\w+|dominat\w+|prevail\w*|main|core|central|principal|overriding"
)
_CLARITY = re.compile(
    r"clear\w*|strong\w*|unmistakabl\w+|distinct\w*|unambiguous\w*|profound\w*|deep\w*|intense|consistent|align\w*"
    r"|genuine|embod\w+|definite\w*|evident\w*|undeniabl\w+|robust|notable|vivid\w*|confirm\w*|state|expression"
    r"|emotion|sense|feelings?|display|depiction|portrayal|representation|conve\w+|reflect\w+|indicat\w+"
    r"|communicat\w+|express\w+|signif\w+|portray\w+|demonstrat\w+|experienc\w+"
)

# Words that start another list item.
_JOINERS = _words(", and or nor")

# Ends of a clause. Words before them do not affect words after them.
_BREAKS = _words("; : ( ) — – but yet however which thus therefore hence consequently")
# A verb of showing starts a new statement, unless a reversal directly precedes it ("without conveying anger").
_SHOWING = re.compile(
    r"(?:convey|indicat|suggest|reflect|signif|communicat|confirm|reinforc|emphasi|highlight|illustrat|reveal"
    r"|represent|portray|demonstrat|support|affirm|show|express(?!ion)|depict|underscor|captur|embod|mark|creat|lead"
    r"|remain|result|contribut|establish|characteri|underlin|point|solidif|validat|categori|classif|identif|mak|giv"
    r"|enhanc|speak|denot|implie|accentuat)\w*|imply|align(?:s|ed|ing)|corresponds?|signals|is|are|was|were"
)

# "Neutral brows" and "the lips remain neutral" describe a part that does not move, not the expression.
_UNMOVED = _words("neutral neutrality")
_PARTS = _words(
    "eye eyes eyelid eyelids lid lids brow brows eyebrow eyebrows lip lips mouth jaw chin cheek cheeks nose forehead "
    "position positions positioning areas area features regions region muscle muscles gaze corners zone zones movement "
    "movements parts"
)
_BETWEEN_PART = _words("and or of the other facial relaxed resting upper lower")
_STAYS = _words("remain remains stay stays are is remaining staying relatively mostly largely")

# "Without any strong emotion" indicates a neutral face.
_EMOTION = _words("emotion emotions emotional feeling feelings emotionality")
_STRONG = _words(
    "any strong stronger intense significant pronounced overt extreme heightened marked distinct clear specific "
    "definitive vivid particular noticeable dominant overwhelming discernible definite substantial"
)
_NO_STRONG_EMOTION_WEIGHT = 1.0

_WORD = re.compile(r"[a-z]+|[,;:()—–]")
_SHORTENED_NOT = re.compile(r"n['’]t\b")
_SENTENCE_END = re.compile(r"(?<=[.!?])(?=\s|$)|\n")
_QUESTION = re.compile(r"\?\s*$")
# How many tokens a reversal, a concession, and a damper or booster reach.
_REACH = 18
_CONCESSION_REACH = 30
_NEAR = 5
_LIST_ITEM = 3  # maximum number of words between the commas of a list

_REVERSED_FACTOR = -0.25
_DAMPED_FACTOR = 0.35
_WEAKLY_DAMPED_FACTOR = 0.7
_BOOSTED_FACTOR = 1.6
_CLEAR_FACTOR = 1.2
_UNMOVED_FACTOR = 0.3

_NAMED = 1.0
"""Minimum score of a decisive text: a label may be weakened once (3 x 0.35), not twice."""
_TIED = 0.85
"""Ratio of the second-best to the best score from which the two count as tied."""

Evidence = tuple[tuple[Expression, float], ...]


def _table() -> tuple[dict[str, Evidence], dict[str, Evidence]]:
    """Return the evidence for whole words and for stems."""
    words: defaultdict[str, list[tuple[Expression, float]]] = defaultdict(list)
    for expression, by_weight in _HINTS.items():
        for weight, pattern in by_weight.items():
            for word in pattern.split():
                words[word].append((expression, weight))
    for word, expression in SYNONYMS.items():
        words[word] = [(expression, _LABEL_WEIGHT if word in _LABEL_NOUNS else _SYNONYM_WEIGHT)]
    whole = {word: tuple(evidence) for word, evidence in words.items() if not word.endswith("*")}
    stems = {word[:-1]: tuple(evidence) for word, evidence in words.items() if word.endswith("*")}
    return whole, stems


_WHOLE, _STEMS = _table()
_LONGEST_STEM = max(map(len, _STEMS))


@lru_cache(maxsize=4096)
def _evidence(word: str) -> Evidence:
    if word in _WHOLE:
        return _WHOLE[word]
    return next(
        (_STEMS[word[:size]] for size in range(min(len(word), _LONGEST_STEM), 2, -1) if word[:size] in _STEMS), ()
    )


def score(text: str) -> Mapping[Expression, float]:
    """Score the evidence of a text for each expression.

    Args:
        text: English prose of any length.

    Returns:
        Sum of weights per mentioned expression; negative if the text denies the expression.
    """
    scores: defaultdict[Expression, float] = defaultdict(float)
    for sentence in _SENTENCE_END.split(_SHORTENED_NOT.sub(" not", text.lower())):
        if _QUESTION.search(sentence):
            continue
        scope = scoped(_WORD.findall(sentence), modal_verbs=False)
        words = scope.words
        for position, word in enumerate(words):
            if not scope.asserted[position]:
                continue
            if word in _EMOTION:
                if _denies_strong_emotion(words, position):
                    scores[Expression.NEUTRAL] += _NO_STRONG_EMOTION_WEIGHT
                continue
            evidence = _evidence(word)
            if not evidence:
                continue
            factor = _UNMOVED_FACTOR if _is_unmoved_part(words, position) else _context_factor(words, position)
            if scope.denied[position]:
                factor = _REVERSED_FACTOR if factor > 0 else 1.0
            for expression, weight in evidence:
                scores[expression] += weight * factor
    return scores


def _denies_strong_emotion(words: Sequence[str], position: int) -> bool:
    before = words[max(0, position - 6) : position]
    if _STRONG.isdisjoint(before) or "other" in before or ("negative" in before and "positive" not in before):
        return False
    return _is_reversed(words, position)


def _is_unmoved_part(words: Sequence[str], position: int) -> bool:
    """Return whether "neutral" describes a part of the face ("neutral brows", "the lips remain neutral")."""
    if words[position] not in _UNMOVED:
        return False
    after = next((word for word in words[position + 1 : position + 5] if word not in _BETWEEN_PART), "")
    before = next((word for word in words[max(0, position - 4) : position][::-1] if word not in _STAYS), "")
    return after in _PARTS or (before in _PARTS and words[position - 1] in _STAYS)


def _context_factor(words: Sequence[str], position: int) -> float:
    if _is_reversed(words, position):
        return _REVERSED_FACTOR
    factor = _before_factor(words, position) * _after_factor(words, position)
    return factor * _DAMPED_FACTOR if _is_conceded(words, position) else factor


def _is_conceded(words: Sequence[str], position: int) -> bool:
    """Return whether a concession ("despite ...") opens the clause, possibly with a list of short items."""
    since_comma = 0
    for word in reversed(words[max(0, position - _CONCESSION_REACH) : position]):
        if word in _CONCESSIONS:
            return True
        if word in _BREAKS or (word == "," and since_comma > _LIST_ITEM):
            return False
        since_comma = 0 if word == "," else since_comma + 1
    return False


def _is_reversed(words: Sequence[str], position: int) -> bool:
    """Return whether an odd number of nested reversals governs the word at ``position`` in its clause."""
    count = 0
    since_comma = 0
    for at in range(position - 1, max(-1, position - 1 - _REACH), -1):
        word = words[at]
        if word in _BREAKS or word in _CONCESSIONS or (count and word in _JOINERS):
            break
        if word == ",":
            if since_comma > _LIST_ITEM:
                break  # longer than a list item: a new clause
            since_comma = 0
            continue
        since_comma += 1
        if word in _REVERSALS:
            following = words[at + 1] if at + 1 < len(words) else ""
            if following in _NO_REVERSAL_BEFORE.get(word, ()):
                continue
            if word in _REQUIRED_AFTER and following not in _REQUIRED_AFTER[word]:
                continue
            count += 1
            if word == "nor":
                break
        elif _SHOWING.fullmatch(word) and _REVERSALS.isdisjoint(words[max(0, at - 2) : at]):
            break
        if word == "over" and at == position - 1:
            count += 1
    return count % 2 == 1


def _before_factor(words: Sequence[str], position: int) -> float:
    factor = 1.0
    clear = shown = False
    for at in range(position - 1, max(-1, position - 1 - _NEAR), -1):
        word = words[at]
        if word in _BREAKS:
            break
        if word == "," and position - at > 3:
            break
        if _HEDGES.fullmatch(word) or (not shown and _DAMPERS.fullmatch(word)):
            return factor * _DAMPED_FACTOR
        if _BOOSTERS.fullmatch(word):
            return factor * _BOOSTED_FACTOR
        if word in _BLENDS or (word in _WEAK_DAMPERS and position - at <= 3):
            factor = _WEAKLY_DAMPED_FACTOR
        if not clear and _CLARITY.fullmatch(word):
            clear = True
            factor *= _CLEAR_FACTOR
        # Words before the verb belong to its subject: "the subtle movements convey joy".
        shown = shown or _SHOWING.fullmatch(word) is not None
    return factor


def _after_factor(words: Sequence[str], position: int) -> float:
    copula = False
    for at in range(position + 1, min(len(words), position + 1 + _NEAR)):
        word = words[at]
        if word in _BREAKS or word in _WEAK_DAMPERS or word == "," or _evidence(word):
            break
        if _BOOST_AFTER.fullmatch(word):
            return _BOOSTED_FACTOR
        if (copula and word in _DENIED_AFTER) or (at == position + 1 and _ASIDE_NOUN.fullmatch(word)):
            return _DAMPED_FACTOR
        copula = copula or word in _COPULA
    return 1.0


def is_decisive(text: str) -> bool:
    """Return whether a text clearly describes one expression.

    Args:
        text: English prose of any length.

    Returns:
        True if the best score reaches that of a label or of several hints, and no other score is close.
    """
    return _is_decided(score(text))


def is_ambiguous(text: str) -> bool:
    """Return whether a text describes several expressions equally, as a list of all labels does.

    Args:
        text: English prose of any length.

    Returns:
        True if the second-best score is close to the best.
    """
    best, second = _best_two(score(text))
    return second > 0 and second >= _TIED * best


def _is_decided(scores: Mapping[Expression, float]) -> bool:
    best, second = _best_two(scores)
    return best >= _NAMED and second < _TIED * best


def _best_two(scores: Mapping[Expression, float]) -> tuple[float, float]:
    best, second = sorted([*scores.values(), 0.0, 0.0], reverse=True)[:2]
    return best, second


def verdict(text: str, *further: str) -> Expression | None:
    """Return the expression that a text describes.

    >>> verdict("Although the smile hints at joy, the face mainly conveys anger.")
    <Expression.ANGER: 'Anger'>

    Args:
        text: English prose of any length.
        *further: Texts that contribute only if ``text`` is undecided (see `is_decisive`). Each counts half as much as
            the previous one.

    Returns:
        The expression with the highest positive score, or None. Ties go to the expression mentioned first.
    """
    scores = dict(score(text))
    if not _is_decided(scores):
        weight = _NAMED
        for other in further:
            # Normalize the scores: a long text must not count more than a short one.
            positive = {expression: value for expression, value in score(other).items() if value > 0}
            total = sum(positive.values())
            for expression, value in positive.items():
                scores[expression] = scores.get(expression, 0.0) + weight * value / total
            weight /= 2
    best = max(scores, key=scores.__getitem__, default=None)
    return best if best is not None and scores[best] > 0 else None
