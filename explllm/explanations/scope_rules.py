"""Patterns of scope: phrases that negate a clause, and phrases that introduce hypothetical or general statements.

This module contains only data for `explllm.explanations.scope`. The patterns match lowercase words and punctuation
marks separated by single spaces.
"""

from __future__ import annotations

import re

BREAK = ";"
"""The token that replaces a phrase that introduces a clause."""

BE = r"(?:is|are|was|were|be|been|being|seems|appears)"
ADVERBS = r"(?:(?:\w+ly|just|also|well|still|even|at all|whatsoever|in fact|then|very|quite|so|too) )*"
DETERMINER = r"(?:the|a|an|this|these|those|that|his|her|their|its|both|one|either|any|each|no|only)"
SAY = (
    r"(?:say|says|said|claim|claims|claimed|argue|argues|state|states|stated|conclude|maintain|maintains|suggest"
    r"|assert|asserts|believe|believes|report|reports|reported|call|think|thinks|tell|tells|told|pretend|insist|insists)"
)
DENY = r"(?:deny|doubt|dispute|question|overlook|miss|ignore|mistake|denied|doubted|disputed|overlooked|missed)"
EVIDENCE = (
    r"(?:evidence|sign|signs|indication|indications|trace|traces|hint|hints|suggestion|proof|reason|question of"
    r"|suspicion|clue|clues)"
)
NOBODY = (
    r"(?:nobody|no one|none|no (?:\w+ )?(?:observer|viewer|person|human|expert|rater|coder|annotator|man|woman"
    r"|reader))"
)
MODAL = r"(?:could|can|would|will|should|might|may|must)"
FALSE = (
    r"(?:not (?:\w+ly )?(?:true|correct|right|accurate|the case|so|supported|justified|plausible|tenable|borne out)"
    r"|false|untrue|incorrect|wrong|mistaken|inaccurate|unfounded|baseless|erroneous|a mistake|an error|a lie"
    r"|unsupported|not (?:a|an) (?:\w+ )?(?:true|correct|accurate) \w+)"
)
TRUE = r"(?:true|correct|right|accurate|the case|certain|clear|plain|evident|obvious|undeniable|a fact|beyond \w+)"
CLAIM = (
    r"(?:claim|idea|notion|suggestion|statement|assertion|impression|belief|assumption|view|hypothesis|theory|rumou?r"
    r"|allegation|conclusion|reading)"
)

# Phrases replaced by simpler ones. The order matters: longer phrases and double negations come first.
REWRITES = [
    (r"not (?:\w+ly )?fail(?:s|ed)? to|never (?:once )?fail(?:s|ed)? to|(?:can|could) not fail to|without fail", ""),
    (r"(?:can|could) not (?:help but|but|help)", ""),
    (r"(?:not|never|hardly|scarcely) without|no (?:lack|shortage|absence|want) of", "with"),
    (r"nothing (?:but|other than|except(?: for)?|besides|apart from|save)|none (?:but|other than)", "only"),
    (r"(?:no|any|without any) other \w+ than|(?:other than|except(?: for)?|apart from|aside from|save for)", BREAK),
    (r"not (?:only|just|merely|simply) ([^,;]{1,60}?) but(?: also| even| rather)?", r"\1 and"),
    (r"not (?:only|just|merely|simply)", "only"),
    (r"not (?:least|surprisingly|unexpectedly|unlike|to mention)", ""),
    (r"no (?:surprise|wonder)(?: \w+)? that", BREAK),
    (r"(?:anything|everything|all) but", "not"),
    (r"nor that", "and that"),
    (
        r"is (?:\w+ )?(?:a|an) (?:myth|illusion|fiction|invention|fabrication|artifact)|(?:is|are) imaginary",
        "is absent",
    ),
    (r"(?:alleged|so called|imaginary|imagined|hypothetical|anticipated) \w+", "thing"),
    (
        r"nothing (?:about|in|on|of|else) (?:\w+ ){1,4}(?:suggests|indicates|shows|reveals|implies|points to"
        r"|hints at)(?! that)",
        "no",
    ),
    (r"den(?:y|ies|ied|ying) (?:any|all)", "without"),
    (
        r"by no means|in no (?:way|sense|respect|manner)|at no (?:point|time|moment|stage)"
        r"|under no circumstances",
        "not",
    ),
    (
        r"on no account|nowhere near|not in the least|not in any way|no longer|not yet|not any longer|not remotely",
        "not",
    ),
    (r"never (?:ever|once)|hardly ever|scarcely ever|not at all|not ever", "not"),
    (r"fail(?:s|ed|ing)? to|refus(?:e|es|ed|ing) to|declin(?:e|es|ed|ing) to|neglect(?:s|ed|ing)? to", "not"),
    (r"omit(?:s|ted|ting)? to|ceas(?:e|es|ed|ing) to|unable to|incapable of|reluctant to|unwilling to", "not"),
    (r"stop(?:s|ped|ping)? short of|refrain(?:s|ed|ing)? from|abstain(?:s|ed|ing)? from|keeps? from", "without"),
    (r"avoid(?:s|ed|ing)?|prevented from|kept from|without so much as", "without"),
    (r"too \w+(?: \w+)?(?= (?:to|for)\b)", "not"),
    (r"(?:count|counts|qualify|qualifies|pass|passes|be (?:called|described|considered|regarded)) as", "be"),
    (
        r"(?:can|could)(?: not| never) be (?:seen|observed|found|detected|made out|spotted|identified"
        r"|noticed)",
        "absent",
    ),
    (
        r"(?:not|never) to be (?:seen|found|observed)|nowhere (?:to be (?:seen|found|observed)|in sight|visible)",
        "absent",
    ),
    (r"out of the question|ruled out|excluded", "absent"),
    (r"(?:does|do|did) (?:not|never) (?:occur|exist|happen|arise|take place|materiali[sz]e)", "is absent"),
    (r"(?:(?:does|do|did) not|never) (?:appears?|appeared|shows?|showed|emerges?)(?= ?(?:$|[,;]))", "is absent"),
    (rf"(?:no|little|zero|not any|never any|hardly any) {EVIDENCE} (?:whatsoever |at all )?(?:of|for)", "no"),
    (r"free (?:from|of) (?:any|all)", "without"),
    # What a side is contrasted or compared with is not claimed.
    (
        r",? ?(?:and |but )?(?:certainly |clearly )?not (?:on |in |of )?the (?:left|right)(?: \w+){0,2}(?: ?,"
        r"|(?= ?(?:$|;)))",
        "",
    ),
    (
        r"(?:rather than|as opposed to|instead of|and not|but not) the (?:left|right)(?: \w+){0,2}(?= (?:is|are"
        r"|shows|has))",
        "",
    ),
    (r"(?:and|but) not the (?:left|right)(?= \w+)", ""),
    (r"lower than(?= (?:the|his|her|their|its) (?:left|right|other|opposite|counterpart|one)\b)", "beneath"),
]
# Phrases that introduce a clause without negating it. Removing them hides their negative words from the tagger.
AFFIRMATIONS = [
    r"(?:there is |there can be )?no (?:doubt|question|denying|dispute|mistaking)(?: (?:that|but|about))?",
    rf"{NOBODY} (?:{MODAL} )?(?:\w+ly )?{DENY}(?: that)?",
    rf"(?:one |you |we |i )?(?:can|could) not (?:be )?{DENY}(?: that)?",
    rf"it (?:is|was|would be) (?:\w+ly )?(?:not|hardly) (?:{FALSE}|undeniable)(?: that| to say that)?",
    r"it (?:is|was|would be) (?:\w+ly )?(?:wrong|false|incorrect|a mistake|impossible|hard) to (?:deny|doubt"
    r"|overlook|miss)"
    r"(?: that)?",
    rf"it (?:is|was) (?:(?!hardly|scarcely)\w+ly )?{TRUE} (?:that|to say that)",
]
# Phrases that negate the following clause.
CLAUSE_NEGATIONS = [
    rf"(?:it|this|that) (?:\w+ly )?(?:is|was|would be|seems"
    rf"|appears) (?:\w+ly )?{FALSE}(?: to (?:\w+ly )?{SAY})?(?: that)?",
    r"it (?:is|was|can|could|should|must|would) (?:\w+ly )?not (?:be )?(?:\w+ly )?(?:said|claimed|argued|stated"
    r"|concluded|shown|maintained|true|assumed)(?: that)?",
    r"it (?:is|was) (?:hardly|scarcely|never|not) (?:that|the case that|true that|as if|as though)",
    r"it (?:does|did) not (?:\w+ )?(?:seem|appear|look)(?: (?:that|as if|like|as though))?",
    r"(?:i|we|one|you|he|she|they|experts?) (?:\w+ly )?(?:doubts?|den(?:y|ies|ied)|disputes?|questions?)(?: that)?",
    rf"{NOBODY} (?:{MODAL} )?(?:\w+ly )?{SAY}(?: that| about)?",
    rf"(?:one|you|we|i|they|he|she)(?: {MODAL})? (?:not|never) (?:\w+ly )?(?:be )?(?:able to )?{SAY}(?: that)?",
    rf"(?:there (?:is|was|are|were|exists?)|we have|i have|i see|we see|i find|we find|one finds|it offers|it gives)?"
    rf" ?(?:no|little|zero|hardly any|not any) (?:\w+ )?{EVIDENCE}(?: whatsoever| at all)? (?:that|to (?:suggest"
    r"|suppose|think|believe|say|indicate|assume)(?: that)?)",
    r"(?:there is )?nothing (?:here |at all )?(?:to )?(?:suggests?|indicates?|shows?|implies|imply|says?|proves?"
    r"|supports?)"
    r" that",
    r"nothing (?:about|in|on|of|else) (?:\w+ ){1,4}(?:suggests|indicates|shows|reveals|implies) that",
    r"(?:there is )?nothing (?:here |at all )?to (?:suggest|indicate|show|imply|prove|support)(?: that)?",
    r"(?:i|we|one|you) (?:do|does|can|could|would|did) not (?:see|find|observe|think|believe|notice|detect"
    r"|agree)(?: that)?",
]
# "The claim that ... is false."
FALSE_CLAIM = re.compile(
    rf"(?:^|(?<= ))(?:(?:the|any|this|that|every|no) (?:\w+ )?{CLAIM} )?that (?P<body>.*?) (?:is|are|was|were"
    rf"|would be|proves"
    rf"|seems|turns out(?: to be)?|does|remains) (?:\w+ly )?(?P<verdict>{FALSE}|{TRUE}|not hold|to be {FALSE})"
)
FALSE_AFTER = re.compile(
    rf"(?P<body>.*?)(?: ,)? (?:which|but (?:this|that|it)|this|that|is)(?: is| was)? (?:\w+ly )?(?P<verdict>{FALSE})"
    r"(?=$| [;,])|(?P<ellipsis>.*?) (?:, )?(?:but|yet|although|though|however)(?: in fact| actually)? (?:it|they"
    r"|this|that|he|she)"
    r" (?:is|are|does|do|did|was|were) not$"
)

PLACE_NEAR = (
    r"(?:next to|beside|besides|behind|in front of|near|nearby|alongside|opposite|to (?:the|his|her"
    r"|their) (?:left|right)"
    r"|on the (?:other|far) side|in the (?:background|back|crowd|distance|mirror|poster|painting|audience)"
    r"|at the back|across from|standing|sitting|seated|walking|over there|further back|on the (?:poster|wall"
    r"|screen|cover))"
)
HUMAN = (
    r"(?:man|woman|person|boy|girl|child|baby|lady|guy|figure|face|individual|someone|somebody|friend|colleague|kid"
    r"|player|men|women|people|children|faces|persons|actor|actress|model|student)"
)
RELATIVE = (
    r"(?:friend|brother|sister|mother|father|wife|husband|colleague|neighbou?r|companion|partner|twin|son"
    r"|daughter|parent"
    r"|boss|teammate|rival|opponent|cousin|uncle|aunt|teacher|classmate|bystander|onlooker|passer by|stranger|crowd"
    r"|audience|dog|cat|doll|statue|cartoon|photographer|interviewer|spectator)s?"
)
OTHER_PEOPLE = re.compile(
    rf"\b(?:{HUMAN} (?:who (?:is|stands|sits) )?{PLACE_NEAR}|(?:an ?other|the other|other|the second|the next"
    rf"|a second|neighbou?ring|adjacent|different|every other|all other|most other|some other) (?:\w+ )?{HUMAN}"
    rf"|(?:someone|somebody|everyone|everybody|anyone|anybody|no one|nobody) else"
    rf"|(?:his|her|their|a|an|the|this person|the person|some) (?:\w+ )?{RELATIVE}|the others)\b"
)
PICTURE = (
    r"(?:photo|photograph|picture|image|frame|shot|snapshot|clip|video|scene|session|portrait|take|moment|frames)s?"
)
OTHER_TIMES = re.compile(
    rf"\b(?:(?:previous|earlier|prior|last|next|following|other|an ?other|different|second|old|older|former|later"
    rf"|preceding|subsequent|first) {PICTURE}"
    r"|(?:\w+ )?(?:seconds?|moments?|minutes?|hours?|days?|weeks?|years?|months?|while) (?:ago|earlier|before"
    r"|later|after)"
    r"|(?<!noted )(?<!mentioned )(?<!described )(?<!seen )(?<!than )(?<!as )(?:earlier|previously|formerly)"
    r"|when (?:\w+ ){1,4}(?:younger|a child|small|older)|(?:since|before|after|until) (?:they|it|he|she) (?:was"
    r"|were|had)"
    r"|(?:picture|photo|photograph|image) (?:to the (?:left|right)|above|below)"
    r"|yesterday|tomorrow|last (?:week|year|month|time|night|summer|winter)|in the (?:past|future)|at one time"
    r"|used to|the day before|before (?:the|this) \w+ was|as a child|in childhood|until recently|(?<!than )(?<!as )soon"
    r"|(?:has|have|had) been \w+ before|had been|is going to|are going to|(?:will|shall)(?! to)|once (?:was|were)"
    r"|back then|in those days|the other day|before (?:the|this) (?:photo|photograph|picture|shot|image))\b"
)
GENERAL_PEOPLE = re.compile(
    r"^(?:\w+ ){0,3}(?:people|persons|humans|individuals|someone|anyone|somebody|anybody|others|everyone|everybody"
    r"|most of us|strangers|babies|infants|adults|actors|viewers)(?! (?:can|could) (?:see|tell))\b(?=.* \w)"
    r"|^(?:(?:other|most|many|angry|sad|happy|fearful|surprised|human|typical|some|all|such|several) ){1,2}faces\b"
    r"|^(?:a|an|the) (?:\w+ )?(?:typical|textbook|prototypical|classic|classical|standard|average|usual|generic)"
    r" (?:\w+ ){0,2}(?:face|expression|display|smile|example|case|image|person|man|woman)\b"
    r"|^(?:a|an) (?:angry|sad|happy|fearful|surprised|disgusted|scared|afraid|frightened) (?:person|man"
    r"|woman|child)(?= (?!with|is|in|looking)\w)"
    r"|^(?:in|among|for) (?:\w+ )?(?:people|persons|humans|faces|individuals|adults|cases)\b"
    r"|^(?:typically|usually|normally|generally|in general|as a rule|commonly|traditionally|ordinarily|often)\b"
    r"|^(?:facs|emfacs|feafa|ekman|textbooks?|the (?:textbook|literature|manual))\b"
)
EMOTION = r"(?:surprise|anger|fear|sadness|disgust|happiness|joy|contempt|neutrality|emotion|rage|grief|terror|joy)"
HABIT = (
    r"(?:typically|usually|often|normally|generally|commonly|always|frequently|tends? to|involves?|requires?"
    r"|features?"
    r"|needs?|would|calls? for|comes? with|goes? with|is (?:\w+ly )?(?:marked|shown|signaled|signalled|accompanied"
    r"|characteri[sz]ed|associated|expressed|displayed)|raises|lowers|widens|wrinkles|makes)"
)
GENERAL_EMOTION = re.compile(
    rf"^(?:(?:\w+ly|true|genuine|real|pure|strong|in|with|for) ){{0,2}}(?:, )?(?:\w+ )?{EMOTION} (?:\w+ )?{HABIT}\b"
)
HYPOTHETICAL_START = re.compile(
    rf"^(?:imagine|suppose|supposing|picture|consider|assume|assuming|pretend|think of|visuali[sz]e|let us|lets"
    rf"|say that|were {DETERMINER}|had {DETERMINER}|should {DETERMINER}|what if|if only|unless|in case|provided that"
    r"|i wish|we wish|one wishes)\b"
)
IF = re.compile(
    rf"\b(?<!as )(?<!even )(?:if|unless|provided that|in case|whether or not|whether|(?<=, )were"
    rf"|(?<=, )had) (?:(?:only|instead|now|ever) )?"
    rf"(?:{DETERMINER}|there|it|he|she|they|you|we|someone|left|right|brows|eyes|lips|eyebrows)\b(?! all)"
)
AS_IF = re.compile(r"\b(?:as if|as though|like someone|like a person|almost like)\b")
MODAL_VERB = re.compile(
    r"\b(?P<modal>would|could|might|may|should|d)\b(?P<skipped>(?: (?:(?!imply)\w+ly|also|well|still|even"
    r"|not))*) (?P<verb>\w+)"
)
REPORT_VERB = re.compile(
    r"(?:indicate|suggest|imply|reinforce|support|convey|signal|reveal|reflect|hint|point|mark|signify|denote|confirm"
    r"|communicate|highlight|emphasi[sz]e|enhance|add|give|create|contribute|express|mean|lead|accentuate|underscore"
    r"|portray|illustrate|fit|speak|stem|come|be (?:read|interpreted|understood|taken|seen|linked|related|associated"
    r"|perceived|a sign|due|part|observed|noted)|represent|correspond|serve|show|help|make|align|arise|appear"
    r"|seem|result)\b"
)
INDEFINITE = re.compile(
    r"^(?:(?:and|or|also|here|then) )?(?:a|an|any|such|more|stronger|no|[a-z]+ed|[a-z]+er|wide|open)\b"
)
EXPECTATION = re.compile(
    rf"\b(?:one|you|we|anyone|someone|observers?|people|i|viewers?)(?: (?:{MODAL}|d))?(?: \w+ly)?"
    r" (?:expect|expects|expected|think|assume|imagine|suppose|guess|anticipate|predict|hope|want|wish|need"
    r"|look for)\b"
    r"|\b(?:it )?(?:is|are|was|were|would be)(?: to be)? (?:normally |usually )?(?:expected|anticipated|supposed)\b"
    r"|\bit (?:would|might|could) be (?:natural|normal|easy|tempting|typical|usual)\b"
)
UNCERTAIN = re.compile(
    r"\b(?:unclear|uncertain|unknown|doubtful|debatable|hard to (?:tell|say|know)|impossible to (?:tell|say|know)"
    r"|(?:can|could) not (?:tell|know)|not sure|not certain|not clear|wonder(?:s|ing)? (?:if|whether)|not known)\b"
    r"|\bit (?:is|seems|remains) (?:\w+ly )?(?:possible|conceivable|imaginable|thinkable|questionable"
    r"|doubtful) that\b"
    rf"|^(?:and |but )?(?:perhaps|maybe|possibly|conceivably) (?={DETERMINER}\b)"
)
INTENTION = re.compile(
    r"\b(?:about to|ready to|going to|want(?:s|ed|ing)? to|wish(?:es|ed)? to|on the (?:verge|point|brink) of"
    r"|threaten(?:s|ed|ing)? to|hop(?:e|es|ed|ing) to|supposed to|meant to|prepar(?:es|ed|ing) to"
    r"|(?:asked|told|instructed|ordered|encouraged|invited) (?:\w+ ){0,3}to|try(?:ing)? to|tries to|tried to"
    r"|attempt(?:s|ed|ing)? to|intend(?:s|ed|ing)? to"
    r"|(?:seems?|appears?|looks?) likely to|plan(?:s|ned|ning)? to)\b(?! (?:suppress|hide|hold|conceal|mask"
    r"|contain|appear))"
)
QUOTED_SOURCE = re.compile(
    r"\b(?<!that )(?:(?:caption|label|title|note|text|headline|comment|article|sign|witness|report|commentator"
    r"|viewer|colleague"
    r"|friend|critic|reviewer|annotator|rater|observer|neighbou?r|description|someone|somebody|expert|author)s?"
    r"(?: (?:\w+ ){0,5}?)?(?: ?(?:says?|said|claims?|claimed|reads?|states?|stated|insists?|insisted|reports?"
    r"|reported|wrote|writes?|tells?|told|thinks?|thought|believes?|mentions?|mentioned|asserts?|argues?|noted|remarked))"
    r"|according to|it is (?:\w+ly )?(?:said|claimed|alleged|rumou?red|reported) that|allegedly|supposedly"
    r"|i was told|we were told|(?:he|she|they|someone|somebody) (?:says?|said|claims?|claimed|thinks?|thought"
    r"|wrote))\b"
)
COMPARED = re.compile(r"\b(?<!rather )(?<!other )than\b")
STANDARD = re.compile(
    r"(?:^|\b)(?:unlike|compared|in contrast|contrary|as opposed|relative|similar|than|just as|as in|as)\b[^,;]*$"
)

CONTRAST = frozenset(("but", "yet", "however", "whereas", "instead", "nevertheless", "nonetheless", BREAK))
BOUNDARIES = CONTRAST | {",", ":", "(", ")", "although", "though", "because", "since", "while", "which"}
RETURNS = frozenset(("this", "these", "here", "now", "subject", "today", "currently", "own", "she", "he", "present"))
PAST = frozenset(("was", "were", "had", "did", "would"))


def _compile(patterns: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(rf"\b(?:{pattern})(?!\w)" for pattern in patterns))


NEGATED = _compile(CLAUSE_NEGATIONS)
AFFIRMED = _compile(AFFIRMATIONS)
REWRITTEN = [(re.compile(rf"\b(?:{pattern})(?!\w)"), plain) for pattern, plain in REWRITES]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


TRIGGERS = _words(
    """
    about absent according adults ago all alleged allegedly anger angry another anything apart as aside asked assume
    attempts avoid avoided avoiding avoids background before behind beside brother but bystander cannot caption
    cease ceases claims commonly conceivable conceivably consider contempt could crowd d decline declines denied
    denies deny different disgust disgusted doubt earlier everyone everything except excluded expect expected
    expects fail failed failing fails false father fear fearful following free friend frightened generally going had
    happiness happy hardly he hopes i if illusion imaginary imagine incorrect instead it joy kept label last later
    let lets lower many may maybe might mistake mistaken most mother myth near neighbor neighbour never next no
    nobody none nor normally not nothing nowhere often on once opposed other others past people perhaps persons
    picture possible possibly poster prevented previous previously question rather reads ready refrain refrains
    refuse refused refuses report ruled sad sadness said says scarcely second she should since sister sitting so
    somebody someone soon standing states statue stop stops suppose supposed supposedly surprise surprised tell
    textbook than told tomorrow too tries true try trying typical typically unable uncertain unclear undeniable
    unknown unless unlike untrue used usually want wants we were whether who will wish without would wrong wrote
    yesterday yet
    """
)
"""Words of which every pattern contains at least one. Sentences without them are not searched."""
