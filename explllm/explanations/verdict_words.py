"""Words that name, suggest, deny, weaken or stress an expression in English prose.

This module contains only data; `explllm.explanations.verdict` describes the rules.
"""

from __future__ import annotations

import re

from explllm.core.expressions import Expression

LABEL_NOUNS = frozenset({*(expression.lower() for expression in Expression), "neutrality"})

# Words that suggest an expression, by weight. A trailing * matches any ending. A word may suggest several expressions.
HINTS: dict[Expression, dict[float, str]] = {
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
REVERSALS = _words(
    "no not non without absence absent lack lacks lacking lacked devoid free void neither nor never cannot than little "
    "unlike exclude excludes excluding instead overshadow overshadows overshadowing outweigh outweighs outweighing "
    "eclipse eclipses eclipsing detract detracts detracting diminish diminishes diminishing undermine undermines "
    "undermining negate negates negating contradict contradicts contradicting dispel dispels dispelling minimize "
    "minimizes minimizing distinct distinguish distinguishes distinguishing distinguishable surpass surpasses "
    "surpassing far counter counters countering override overrides insufficient fails short ruling rules "
    "inconsistent incompatible"
)
# A reversal followed by one of these words does not deny anything ("not only joy", "no doubt").
NO_REVERSAL_BEFORE = {
    "not": _words("only just merely simply solely hide hides conceal mask deny"),
    "cannot": _words("hide conceal mask deny"),
    "no": _words("doubt question ambiguity mistaking"),
    "little": _words("doubt question ambiguity"),
    "impossible": _words("to"),
}
# These reverse only with their preposition ("distinct from joy", but "distinct joy").
REQUIRED_AFTER = {
    "distinct": _words("from"),
    "distinguishable": _words("from"),
    "far": _words("from"),
    "free": _words("from of"),
    "absent": _words("of"),
    "short": _words("of"),
    "ruling": _words("out"),
    "rules": _words("out"),
    "inconsistent": _words("with"),
    "incompatible": _words("with"),
}

# An expression is weakened by an attribute or quantifier of its noun ...
DAMPERS = re.compile(
    r"(?:hint|undertone|overtone|trace|nuance|tinge|touch|layer|shade|glimpse|flicker|undercurrent|element|aspect)"
    r"(?:s|d|ed)?|infused|tempered|moderated|slight|subtle|subtler|mild|minor|faint|secondary|possible|potential"
    r"|initial|initially|brief|fleeting|momentary|some|any|accompanied|alongside|coupled|interwoven|intertwined"
    r"|beneath|influenced|complemented|enriched|mixed|other|lesser|residual|certain|minimal|limited|somewhat|faintly"
    r"|vague|vaguely|modest|modestly|fluctuating|contrasting"
)
# ... by a modifier of the verb ("might suggest joy") ...
HEDGES = re.compile(
    r"hint(?:s|ed|ing)?|resembl(?:e|es|ed|ing)|possibly|potentially|perhaps|might|may|could|slightly|subtly|mildly"
)
# ... or only by its context.
WEAK_DAMPERS = _words(
    "with while whereas including associated bordering well underlying sign signs suggestion "
    "suggestions note notes leaning"
)
BLENDS = _words("blend blended mix mixture")  # weakens each of the blended expressions
ASIDE_NOUN = re.compile(r"(?:undertone|overtone|nuance|hint|trace|undercurrent)s?")  # "sadness undertones"
# "Happiness is unlikely", "the surprise remains minor".
COPULA = _words("is are was were be been remains remain being appears appear seems seem")
DENIED_AFTER = _words("absent lacking ruled excluded unlikely improbable impossible")
DAMPED_AFTER = _words("not minimal minor negligible secondary overshadowed outweighed less")
# Concessions: "Although the smile suggests happiness, ...".
CONCESSIONS = _words("although though despite while whereas notwithstanding")

# Words that strengthen an expression, before and after it.
BOOSTERS = re.compile(
    r"primar\w+|predominan\w+|dominan\w+|dominat\w+|overall|overwhelming\w*|main|mainly|chiefly|categori[sz]\w+"
    r"|classif\w+|identif\w+|label\w*|best|ultimately|indeed|definitive\w*|fundamental\w*|core|essence|essentially"
    r"|prevail\w*|overriding|rooted|conclu\w+|center(?:s|ed)|principal\w*|central|leading|firmly"
)
BOOST_AFTER = re.compile(
    r"primary|predominan\w+|dominan\w+|dominat\w+|prevail\w*|main|core|central|principal|overriding"
)
CLARITY = re.compile(
    r"clear\w*|strong\w*|unmistakabl\w+|distinct\w*|unambiguous\w*|profound\w*|deep\w*|intense|consistent|align\w*"
    r"|genuine|embod\w+|definite\w*|evident\w*|undeniabl\w+|robust|notable|vivid\w*|confirm\w*|state|expression"
    r"|emotion|sense|feelings?|display|depiction|portrayal|representation|conve\w+|reflect\w+|indicat\w+"
    r"|communicat\w+|express\w+|signif\w+|portray\w+|demonstrat\w+|experienc\w+"
)

# Words that start another list item.
JOINERS = _words(", and or nor")

# Ends of a clause. Words before them do not affect words after them.
BREAKS = _words("; : ( ) — – but yet however which thus therefore hence consequently")
# A verb of showing starts a new statement, unless a reversal directly precedes it ("without conveying anger").
SHOWING = re.compile(
    r"(?:convey|indicat|suggest|reflect|signif|communicat|confirm|reinforc|emphasi|highlight|illustrat|reveal"
    r"|represent|portray|demonstrat|support|affirm|show|express(?!ion)|depict|underscor|captur|embod|mark|creat|lead"
    r"|remain|result|contribut|establish|characteri|underlin|point|solidif|validat|categori|classif|identif|mak|giv"
    r"|enhanc|speak|denot|implie|accentuat)\w*|imply|align(?:s|ed|ing)|corresponds?|signals|is|are|was|were"
)

# "Neutral brows" and "the lips remain neutral" describe a part that does not move, not the expression.
UNMOVED = _words("neutral neutrality")
PARTS = _words(
    "eye eyes eyelid eyelids lid lids brow brows eyebrow eyebrows lip lips mouth jaw chin cheek cheeks nose forehead "
    "position positions positioning areas area features regions region muscle muscles gaze corners zone zones movement "
    "movements parts"
)
BETWEEN_PART = _words("and or of the other facial relaxed resting upper lower")
STAYS = _words("remain remains stay stays are is remaining staying relatively mostly largely")

# "Without any strong emotion" indicates a neutral face.
EMOTION = _words("emotion emotions emotional feeling feelings emotionality")
STRONG = _words(
    "any strong stronger intense significant pronounced overt extreme heightened marked distinct clear specific "
    "definitive vivid particular noticeable dominant overwhelming discernible definite substantial"
)
