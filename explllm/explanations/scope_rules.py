"""Words and patterns of scope: attitudes to a clause, and statements about something other than this face.

This module contains only data for `explllm.explanations.scope`. The patterns match lowercase words and punctuation
marks separated by single spaces; a leading space stands for the start of a word.
"""

from __future__ import annotations

import re

from explllm.core.expressions import SYNONYMS
from explllm.explanations.lexicon import TABLE, forms

BREAK = ";"
"""The token that replaces each word of a phrase that introduces or retracts a clause."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _verbs(text: str) -> frozenset[str]:
    return frozenset(form for verb in text.split() for form in forms(verb))


def _expanded(pattern: str) -> str:
    """Return a pattern as a regular expression.

    ``@(stop|quit)`` stands for all forms of these verbs, and ``{NAME}`` for an entry of `_PARTS`. Line breaks are
    removed together with the indentation of this module.
    """
    pattern = pattern.replace("\n    ", "")
    pattern = re.sub(r"\{([A-Z_]+)\}", lambda name: _expanded(_PARTS[name[1]]), pattern)
    return re.sub(r"@\(([a-z|]+)\)", lambda verbs: f"(?:{'|'.join(_verbs(verbs[1].replace('|', ' ')))})", pattern)


def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(_expanded(pattern))


_PARTS = {
    "DETERMINER": (
        "(?:the|a|an|any|this|these|those|that|his|her|their|its|both|one|either|each|no|only|there|it|he|she|they"
        "|them|you|we|someone|left|right)"
    ),
    "EVIDENCE": "(?:evidence|signs?|indications?|traces?|hints?|suggestion|proof|reason|suspicion|clues?)",
    "CLAIM": (
        "(?:claim|idea|notion|suggestion|statement|assertion|impression|belief|assumption|view|hypothesis|theory"
        "|rumou?r|allegation|conclusion|reading|fact)"
    ),
    "FALSE": (
        r"(?:not (?:\w+ly )?(?:true|correct|right|accurate|the case|so|supported|justified|plausible|tenable)"
        "|false|untrue|incorrect|wrong|mistaken|inaccurate|unfounded|baseless|erroneous|a mistake|an error|a lie"
        r"|unsupported|not an? (?:\w+ )?(?:true|correct|accurate) \w+)"
    ),
    "PLACE": (
        "(?:next to|besides?|behind|(?:in|on) (?:his|her|their) (?:arms?|lap|shoulders|back)|around (?:him|her|them)"
        "|in front of|near|nearby|alongside|opposite|to (?:the|his|her|their) (?:left|right)|on the (?:other|far) side"
        "|on the (?:left|right)|in the (?:middle|center|centre|(?:front|back|first|second) row|background|back|crowd"
        "|distance|mirror|poster|painting|audience)|at the back|across from|standing|sitting|seated|walking|over there"
        "|further back|on the (?:poster|wall|screen|cover))"
    ),
    "HUMAN": (
        "(?:man|woman|person|boy|girl|child|baby|lady|guy|figure|face|individual|someone|somebody|friend|colleague|kid"
        "|toddler|teenager|player|men|women|people|children|faces|persons|actor|actress|model|student)"
    ),
    "RELATIVE": (
        "(?:friend|brother|sister|mother|father|wife|husband|colleague|neighbou?r|companion|partner|twin|son|daughter"
        "|parent|teammate|rival|opponent|cousin|uncle|aunt|teacher|classmate|bystander|onlooker|passer by|stranger"
        "|crowd|audience|dog|cat|doll|statue|cartoon|photographer|interviewer|spectator)s?"
    ),
    "PICTURE": "(?:photo|photograph|picture|image|frame|shot|snapshot|clip|video|portrait|selfie|still|screenshot)s?",
    # Words after which "picture" still means this picture: "in the cropped picture".
    "OWN": (
        "(?:present|current|given|same|provided|above|shown|single|still|final|close|up|cropped|gr[ae]y|scale"
        "|gr[ae]yscale|colou?r|colou?red|black|and|white|uploaded|attached|facial|input|static|entire|whole|blurry"
        "|sharp|small|large|low|high|quality|resolution|photographic|frontal|test)"
    ),
    "OTHER_PICTURE": (
        "(?:poster|billboard|painting|drawing|cartoon|sketch|statue|magazine|book|cover|television|tv|screen|wall"
        "|mural|logo|sticker|mask|t shirt|shirt|diagram|manual|guide|textbook|handbook|literature|catalog(?:ue)?|film"
        "|movie|novel|dream|mirror|caricature|theory|legend|comic)s?"
    ),
    "EMOTION": "(?:surprise|anger|fear|sadness|disgust|happiness|joy|contempt|neutrality|emotion|rage|grief|terror)",
    "PAST": "(?:was|were|had)",
    "SIDE": "(?:left|right)",
}

# Phrases replaced by simpler ones: pattern => plain words. The order matters: longer phrases and double negations come
# first.
_REWRITES = r"""
((?:all|every|each)(?: \w+){1,3}) (?:except(?: for)?|apart from|other than) ([^,;:()]{1,60}?)(?= (?:is|are|has|have)\b)\
 => \2 ; \1
(?:not|non) (?:zero|absent|inactive|unlikely|improbable|impossible) => present
(?:with )?(?:an? |the )?(?:intensity|intensities|scores?|values?|levels?|activation)(?: of| :)? zero\
|(?:an? )?zero (?:intensity|activation)|(?:zero|none)(?= (?:[,;:)]|$)) => absent
(is|are) zero => \1 absent
([:;(]) (?:no|false)(?= (?:[,;)]|$)) => \1 absent
what ((?:is |are )?(?:pulled \w+|goes up|goes down|@(rise|raise|lift|lower|drop|open|close|move|widen|wrinkle|pucker)))\
 (?:is|are) ((?:\w+ )*\w+) => \2 \1
the (\w+(?: corner)?) that ((?:is|are|has|shows) [^,;]+?) is the ({SIDE})(?: one)? => the \3 \1 \2
what (?:looks like|@(seem|appear|resemble)|(?:might|may|could) be|passes for|one takes for|was once|used to be|had been\
|was)[^;]*?(?= (?:is|are|turns|proves)\b) => it
the ({SIDE}) (?:(?:and|but) not|rather than|as opposed to|instead of) the {SIDE} ((?:lip |mouth )?\w+)\
(?= (?:is|are|shows|has)) => the \1 \2
one (\w+|lip corner|corner of the mouth) , the ({SIDE})(?: one)? , => the \2 \1
less (?:likely|probable|plausible)(?: to be)? (\w+ )?than => not \1but
less (?:likely|probable|plausible) => unlikely
(?:evidence|@(speak|argue|count|weigh)) against => excludes
(?:can|could|should|must|may) (?:not|never) be (?:ruled out|excluded) => may be present
less (an? \w+) than (an? \w+) => not \1 but \2
less (\w+ed|wide|open|shut) than(?= (?:\w+ed|wide|open|shut)\b) => not \1 but
not so much ([^,;]+?) as => not \1 but
(?:there is )?nothing to (?:be )?(?:see|seen|found) => is absent
(?:missing|absent|lacking)(?: (?:from|in) [^,;]*?)? (?:is|are)(?= (?:the|any|an?|his|her|all)) => there is an absence of
not as (?:if|though) => not that
no (?:getting|way|going) (?:around|past|round) => no denying
(?:(?:does|do|did) not (?:even )?(?:try|bother|attempt|seek|need|want|care)|@(make) no (?:attempt|effort)) to\
 (?:hide|conceal|suppress|mask) => shows
@(keep|prevent|stop) ((?:(?:his|her|their|the|both) )?(?:\w+ ){1,2})from => \1not
@(resist|fight|curb|control|suppress)(?: back)? (?:the|any|every|his|her) (?:urge|impulse|temptation|need|desire\
|wish) to => not
(?:held|kept|@(hold|keep|fight|bite|choke|swallow)) back(?= (?:an?|any|the|his|her|their) (?:\w+ )?@(smile|grin\
|frown|sneer)\b) => shows no
(?:(?:is|are|seems?|looks?) )?(?:threatens?|about|likely|ready|bound|going|due|set|poised|expected) to (?:appear|form\
|emerge|surface|follow|break (?:out|through)) => is absent
(?:false|misleading|wrong|mistaken|illusory|fake|deceptive|mere|only the) (?:impression|appearance|illusion|hint\
|look) of => no
(?:illusion|semblance|mirage) of => no
(?:(?:has|have|had) )?(?:\w+ly )?(?:finished|@(stop|quit|cease)|(?:given|gave|gives) up)(?= (?!short)\w+ing) => not
(?:(?:has|have|had|is|are) )?(?:\w+ly )?(?:gone|@(fade|vanish|disappear|subside|dissolve|evaporate)|worn off|passed)\
(?: (?:away|completely|entirely|altogether))?(?= (?:from|now|by|already|again)| ?[,;]| ?$) => is absent
(?:gave|given|@(give)) way to => is absent ; there is
(?:almost|nearly|virtually|practically)(?= (?:rises?|smiles?|lifts?|drops?|closes?|widens?|wrinkles?|puckers?\
|opens)\b) => not
(?:hardly|scarcely|barely) an?y? (?:\w+ )?(?:trace|hint|sign|suggestion|indication)s? of => no
(?:hardly|scarcely|barely) (?:any|at all) => no
(?:mistook|took|taken|@(mistake|take|confuse|misread)) ([^,;]{1,40}?) (?:for|as|with) => call it
not (?:\w+ly )?@(fail) to|never (?:once )?@(fail) to|(?:can|could) not fail to|without fail =>
(?:can|could) not (?:help but|but|help) =>
(?:not|never|hardly|scarcely) without|no (?:lack|shortage|absence|want) of => with
(?:hardly|scarcely) => not
nothing (?:but|other than|except(?: for)?|besides|apart from|save)|none (?:but|other than) => only
(?:no|any|without any) other \w+ than|(?:other than|except(?: for)?|apart from|aside from|save for) => ;
not (?:only|just|merely|simply) ([^,;]{1,60}?) but(?: also| even| rather)? => \1 and
not (?:only|just|merely|simply) => only
not (?:least|surprisingly|unexpectedly|unlike|to mention) =>
no (?:surprise|wonder)(?: \w+)? that => ;
(?:anything|everything|all) but => not
nor that => and that
is (?:\w+ )?an? (?:\w+ )?(?:myth|illusion|fiction|invention|fabrication|artifact)(?: of \w+(?: \w+)?)?(?! that)\
 => is absent
(?:is|are) imaginary => is absent
(?:alleged|supposed|so called|seeming|apparent|imaginary|imagined|hypothetical|anticipated) \w+ => thing
nothing (?:about|in|on|of|else) (?:\w+ ){1,4}(?:suggests|indicates|shows|reveals|implies|points to|hints at)(?! that)\
 => no
@(deny) (?:any|all) => without
by no means|in no (?:way|sense|respect|manner)|at no (?:point|time|moment|stage)|under no circumstances => not
on no account|nowhere near|not in the least|not in any way|no longer|not yet|not any longer|not remotely => not
never (?:ever|once)|not ever|not at all => not
(?:forgot|@(fail|refuse|decline|neglect|forget|omit|cease)) to|unable to|incapable of|reluctant to|unwilling to => not
@(stop) short of|@(refrain|abstain) from|keeps? from|kept from|prevented from|@(avoid)|without so much as => without
too \w+(?: \w+)?(?= (?:to|for)\b) => not
(?:@(count|qualify|pass)|be (?:called|described|considered|regarded)) as => be
(?:can|could)(?: not| never) be (?:seen|observed|found|detected|made out|spotted|identified|noticed) => absent
(?:not|never) to be (?:seen|found|observed)|nowhere (?:to be (?:seen|found|observed)|in sight|visible) => absent
out of the question|ruled out|excluded => absent
(?:does|do|did) (?:not|never) (?:occur|exist|happen|arise|take place|materiali[sz]e) => is absent
(?:(?:does|do|did) not|never) @(appear|show|emerge)(?= ?(?:$|[,;])) => is absent
(?:no|little|zero|not any|never any|hardly any) {EVIDENCE} (?:whatsoever |at all )?(?:of|for) => no
free (?:from|of) (?:any|all) => without
,? ?(?:and |but )?(?:certainly |clearly )?not (?:on |in |of )?the {SIDE}(?: \w+){0,2}(?: ?,|(?= ?(?:$|;))) =>
(?:rather than|as opposed to|instead of|and not|but not) the {SIDE}(?: \w+){0,2}(?= (?:is|are|shows|has)) =>
(?:and|but) not the {SIDE}(?= \w+) =>
lower than(?= (?:the|his|her|their|its) (?:{SIDE}|other|opposite|counterpart|one)\b) => beneath
"""
REWRITES = [
    (_pattern(f" (?:{pattern})(?= )"), f" {plain}".rstrip())
    for pattern, _, plain in (line.partition(" =>") for line in _REWRITES.replace("\\\n", "").strip().split("\n"))
]
"""Phrases and the plain words that replace them."""
ANY_REWRITE = re.compile("|".join(f"(?:{rule.pattern})" for rule, _ in REWRITES))

# Frames: the words that introduce a clause, as in "nobody could deny that".

DOUBTING = _verbs(
    "deny doubt dispute question contest refute disprove reject overlook miss ignore dismiss disagree escape"
)
SAYING = _verbs(
    "say claim argue state conclude maintain assert believe report think tell pretend insist allege suppose assume "
    "imagine expect guess suspect presume declare consider postulate speculate contend swear hope wish wonder fear "
    "mention write propose predict interpret infer call describe speak talk fancy take"
) | _words("said thought told wrote written held spoke took")
SPEAKING = _verbs("speak talk")
SEEING = _verbs(
    "see find observe notice note know understand recognize admit concede detect spot attest agree accept acknowledge "
    "discern make"
) | _words("saw seen found shown known made")
SHOWING = _verbs("show indicate imply reveal support suggest mean prove demonstrate confirm establish")
"""Verbs that introduce a clause only before "that" or "how", or after "to"; elsewhere, they are part of a clause."""
CONVICTIONS = _words("sure certain confident adamant positive convinced persuaded opinion impression")
"""Adjectives and nouns that introduce what somebody believes."""
NEGATIVE = DOUBTING | _words(
    """
    absence absurd anything artifact barely baseless breaks collapses contradicts crumbles denying difficult dishonest
    dissolves doubtful erroneous erroneously error evaporates exaggeration fabrication fail failed fails falls false
    falsely few fiction foolish groundless hard hardly illusion implausible impossible improbable inaccurate
    inconceivable incorrect incorrectly invented lack lacking lacks lie little misconception misleading misreading
    mistake mistaken mistakenly myth neither never no nobody none nonsense nor not nothing nowhere premature
    questionable rarely refuse refuses scarcely seldom short unconvincing unfounded unjustified unlikely unreasonable
    unsupported untenable untrue unwarranted without wrong wrongly zero
    """
)
CLAUSE_HEADS = (
    CONVICTIONS
    | NEGATIVE
    | _words(
        """
        accurate allegation apparent assertion assumption avoiding basis be belief case chance claim clear clue clues
        conceivable conclusion correct danger evidence evident fact grounds hint hints hypothesis idea imaginable
        indication indications likely mistaking notion obvious plain plausible possibility possible pretense probable
        proof reading reason right room rumor rumour sign signs statement suggestion suspicion theory thinkable trace
        true uncertain unclear undeniable view way
        """
    )
)
"""Other words, mostly nouns and adjectives, that introduce a clause with "that" or "how"."""
OPEN = _verbs("suppose imagine assume expect guess hope wish wonder suspect presume pretend speculate") | _words(
    "if whether unclear uncertain unknown debatable perhaps maybe possible possibly conceivable conceivably imaginable "
    "thinkable probable probably plausible plausibly allegedly supposedly likely chance possibility danger rumor "
    "rumour tempting"
)
POSITIVE = _words("fair right correct accurate safe reasonable justified natural tempting easy possible true honest")
MODALS = _words("might may could would should d")
OWN_VOICE = _words(
    "i we one you it there everyone everybody anyone image picture photo photograph face expression feature features "
    "analysis data evidence measurement measurements estimate estimates value values intensity intensities unit units "
    "observation observations finding findings cue cues"
)
"""Subjects whose statements are the text's own: "one can see that", "the image shows that"."""
TRUE = _words("true correct right accurate certain clear plain evident obvious undeniable holds beyond fact stands")
FINITE = _words(
    "is are was were does do did has have had can could would will may might seems seem remains remain proves turns "
    "finds lacks rests makes collapses crumbles fails falls breaks dissolves evaporates holds stands contradicts misses"
)
CLAIM_START = _pattern(
    r"(?:(?:and|so|thus) )?(?:(?:the|an?|any|this|every|no|his|her|their|such) (?:\w+ )?{CLAIM} )?that $"
)
TAKEN_BACK = _pattern(
    r""" (?:(?:[,;] )?(?:which|this|that|is|and it|(?:but|and) (?:this|that|it)) (?:(?:is|was) )?(?:\w+ly )?{FALSE}
    |(?:, )?(?:but|yet|although|though|however|;|and)(?: ,)?(?: in fact| actually| in reality| really)?
    (?: it| they| this| that| he| she)? (?:(?:is|are|does|do|did|was|were|has|have|will) not
    |(?:is|are|was|were) (?:only|just|merely|simply|really|actually|nothing but|no more than) (?:an?|the|due)\b[^,;]*
    |(?:stays?|remains?) (?:where|as) (?:it|they) (?:is|are|was|were)))(?= [;,]| ?$)"""
)
"""A remark that denies the clause before it: "..., which is false", "..., but they are not"."""

# Statements about something else.

UNCERTAIN = _pattern(
    r""" (?:(?:hard|difficult|impossible|not easy) to (?:tell|say|know|judge|decide|make out)
    |(?:can|could) not (?:tell|know|be sure)|un(?:clear|certain|known)|debatable|doubtful
    |not (?:sure|certain|clear|known)|an open question)\b
    |^ (?:and |but )?(?:perhaps|maybe|possibly|conceivably) (?={DETERMINER}\b)"""
)
QUOTED_SOURCE = _pattern(
    r""" (?:according to (?!(?:(?:the|its|all|these|those|this) )?(?:\w+ )?(?:action|measure\w*|intensit\w*|data|values?
    |units?|analysis|facs|estimat\w*))|allegedly|supposedly|reportedly|purportedly|ostensibly|(?:was|were) told)\b"""
)
OTHER_PEOPLE = _pattern(
    r""" (?:{HUMAN} (?:who (?:is|stands|sits) )?{PLACE}
    |(?:an ?other|the other|other|the second|the next|a second|neighbou?ring|adjacent|different|every other|all other
    |most other|some other) (?:\w+ )?{HUMAN}
    |(?:someone|somebody|everyone|everybody|anyone|anybody|no one|nobody) else
    |(?:{PLACE} (?:him|her|them|this \w+|the (?:person|subject|man|woman|boy|girl|child))|to (?:his|her|their
    |the) {SIDE}
    |in the (?:background|back|distance|foreground|corner))(?: ,)?(?: (?:stands?|sits?|walks?|is|are|appears?|waits?))?
     (?:someone|somebody|an?(?! (?:\w+ )?(?:smile|grin|frown))|another|two|some)
    |(?:his|her|their|an?|the|this person|the person|some) (?:\w+ )?{RELATIVE}|the others)\b"""
)
OTHER_TIMES = _pattern(
    r""" (?:(?:in|on|at|from|throughout|during|for) (?:the|an?|his|her|their|one|some|most|many|all|several|other)
     (?:(?!{OWN}\b)\w+ ){1,2}{PICTURE}
    |(?:in|on|from|inside) (?:the|an?|his|her|their|some|most|many|all) (?:\w+ ){0,2}{OTHER_PICTURE}
    |(?:in|on|from) (?:the|an?|his|her) {PICTURE} (?:taken|made|shot|painted|drawn|from|of|by|before|after
    |(?:that|which) (?:was|were|follows|follow|precedes|came|comes))
    |{PICTURE} (?:to the {SIDE}|above|below)
    |(?:previous|earlier|prior|last|next|following|other|an ?other|different|second|old|older|former|later|preceding
    |subsequent|first) (?:{PICTURE}|(?:scene|session|take|moment)s?)
    |(?:\w+ )?(?:frame|picture|shot|second|moment|minute|hour|day|week|year|month|while)s? (?:ago|earlier|before
    |later|after)
    |(?<!noted )(?<!mentioned )(?<!described )(?<!seen )(?<!than )(?<!as )(?:earlier|previously|formerly)
    |when (?:\w+ ){1,4}(?:younger|a child|small|older)|(?:since|before|after|until) (?:they|it|he|she) {PAST}
    |yesterday|tomorrow|last (?:week|year|month|time|night|summer|winter)|in the (?:past|future)|at one time
    |used to|the day before|before (?:the|this) \w+ was|as a child|in childhood|(?<!than )(?<!as )soon
    |(?:has|have|had) been \w+ before|had been|(?:is|are) going to|(?:will|shall)(?! to)|once (?:was|were|upon a time)
    |back then|in those days|the other day|beforehand|afterwards|until (?:now|then|recently|just now)
    |(?:shortly|just|long|right|immediately) (?:before|after)(?:wards?)?(?= ?(?:$|[,;]))
    |as an? (?:\w+ )?(?:baby|boy|girl|teenager|toddler|infant|youth|student)
    |at the (?:beginning|start|end|outset) of|(?:during|throughout) [^,;]{1,40}? {PAST}
    |(?<=^ )(?:when|as soon as) [^,;]*?\b(?:{PAST}|did|\w+ed)\b[^,;]*(?= ,)
    |(?<=^ )(?:before|after|until|prior to) (?!all\b)[^,;]{1,40}(?= ,)
    |before (?:the|this) {PICTURE})\b"""
)
GENERAL = _pattern(
    r"""^(?:(?:(?!(?:at|to|by|with|like|from|for|of|as|he|she|they|it|the|this)\b)\w+ ){0,3}(?:people|persons|humans
    |individuals|someone|anyone|somebody|anybody|others|everyone|everybody|most of us|strangers|babies|infants|adults
    |actors|viewers|children|kids|toddlers|men|women|teenagers|students)(?! (?:can|could) (?:see|tell))\b(?=.* \w)
    |(?:(?:other|most|many|angry|sad|happy|fearful|surprised|human|typical|some|all|such|several) ){1,2}faces\b
    |(?:an?|the) (?:\w+ )?(?:typical|textbook|prototypical|classic|classical|standard|average|usual|generic)
     (?:\w+ ){0,2}(?:face|expression|display|smile|example|case|image|person|man|woman)\b
    |an? (?:angry|sad|happy|fearful|surprised|disgusted|scared|afraid|frightened) (?:person|man|woman|child)
    (?= (?!with|is|in|looking)\w)
    |(?:in|among|for) (?:\w+ )?(?:people|persons|humans|faces|individuals|adults|cases)\b
    |(?:typically|usually|normally|generally|in general|as a rule|commonly|traditionally|ordinarily|often)\b
    |(?:in )?(?:facs|emfacs|feafa|ekman|textbooks?|the (?:textbook|literature|manual))\b
    |(?:(?:\w+ly|true|genuine|real|pure|strong|in|with|for) ){0,2}(?:, )?(?:\w+ )?{EMOTION} (?:\w+ )?(?:typically
    |usually|often|normally|generally|commonly|always|frequently|tends? to|involves?|requires?|features?|needs?|would
    |calls? for|comes? with|goes? with|is (?:\w+ly )?(?:marked|shown|signaled|signalled|accompanied|characteri[sz]ed
    |associated|expressed|displayed)|raises|lowers|widens|wrinkles|makes)\b
    |(?:imagine|suppose|supposing|picture|consider|assume|assuming|pretend|think of|visuali[sz]e|let us|lets|say that
    |(?:were|had|should) {DETERMINER}|what if|if only|unless|in case|provided that|let (?:the|his|her|their|both)
    |i wish|we wish|one wishes)\b)
    |\b(?:is|are) (?:\w+ly )?(?:defined|coded|scored|termed|known) (?:as|in terms of|by the)\b"""
)
"""Clauses about people, faces and emotions in general, definitions, and hypothetical clauses."""
IF = _pattern(
    r""" (?<!as )(?<!even )(?:if|unless|(?:provided|providing|assuming|granted|supposing|on condition|in the event)
    (?: that)?|in case|in (?:the|a) case (?:that|where)|as long as|only if|even if|whether or not|whether|(?<=, )were
    |(?<=, )had) (?:(?:only|instead|now|ever) )?(?:{DETERMINER}|brows|eyes|lips|eyebrows)\b(?! all)"""
)
AS_IF = _pattern(r" (?:as if|as though|like someone|like a person|almost like)\b")
MODAL_VERB = _pattern(
    r""" (?P<modal>would|could|might|may|should|d|must(?= have)|can(?= (?:\w+ )?(?:open|close|raise|rise|lift|drop|smile
    |grin|frown|wrinkle|pucker|purse|widen|lower|stretch|pull|curl|blink|squint|wink|move|puff)\b))\b"""
)
AUXILIARIES = _words(
    "be been being have has get become stay remain seem look appear not well also even still then just very quite"
)
EXISTENCE = _words(
    "present visible there absent missing expected needed required happen occur exist come follow result arise"
)
"""Predicates that say whether a movement takes place. With these and with verbs of movement, a modal verb makes the
subject hypothetical ("the brows might be raised"). With other verbs, the subject stays a fact ("the raised brows might
suggest surprise")."""
LATER = _words("later soon at in any on again next when after , ;")
"""Words after "appear" as a full verb: "a smile might appear later"."""
INDEFINITE = _pattern(
    r"^(?:(?:and|or|also|here|then) )?(?:an?|any|such|more|stronger|no|[a-z]+ed|[a-z]+er|wide|open)\b"
)
EXPECTATION = _pattern(
    r""" (?:(?:one|you|we|anyone|someone|observers?|people|i|viewers?)(?: (?:could|can|would|will|should|might|may|must
    |d))?(?: \w+ly)? (?:expect|expects|expected|think|assume|imagine|suppose|guess|anticipate|predict|hope|want|wish
    |need|look for)
    |(?:it )?(?:is|are|was|were|would be)(?: to be)? (?:normally |usually )?(?:expected|anticipated|supposed)
    |it (?:would|might|could) be (?:natural|normal|easy|tempting|typical|usual))\b"""
)
INTENTION = _pattern(
    r""" (?:(?:about|ready|going|supposed|meant|tries|tried|attempts|attempted|attempting|likely|asked|instructed
    |ordered
    |encouraged|invited|urged|required|trained|(?:told|taught|@(ask|tell|instruct|order|encourage|invite|urge
    |require|train
    |teach))(?: \w+){1,3}|(?:is|are|was|were) (?:\w+ly )?(?:said|claimed|reported|alleged|rumou?red|believed
    |thought|assumed
    |reputed|known|unlikely|told)
    |@(want|wish|threaten|hope|prepare|try|intend|struggle|strive|seek|long|endeavor|endeavour|plan)) to
    |on the (?:verge|point|brink) of)\b(?! (?:suppress|hide|hold|conceal|mask|contain))"""
)
COMPARED = _pattern(
    r" (?:(?<!rather )(?<!other )than|as against|versus|(?:by|in) contrast with|as (?:distinct|distinguished) from)\b"
)
STANDARD = _pattern(
    r"\b(?:unlike|compared|in contrast|contrary|as opposed|relative|similar|than|just as|as in|as)\b[^,;]*$"
)

CONTRAST = frozenset(("but", "yet", "however", "whereas", "instead", "nevertheless", "nonetheless", BREAK))
BOUNDARIES = CONTRAST | {",", ":", "(", ")", "although", "though", "because", "since", "while", "which"}
RETURNS = _words("this these here now subject today currently own she he present")
PRONOUNS = _words("she he own")
PAST = _words("was were had did would")

# Vocabulary of the lexicon.


def _of_kinds(*kinds: str) -> frozenset[str]:
    return frozenset(
        word for word, entries in TABLE.items() for rest, (kind, _) in entries if not rest and kind in kinds
    )


OBJECT_START = (
    (_of_kinds("part", "action", "side", "grade", "filler") - _words("open look part"))
    | frozenset(SYNONYMS)
    | _words("there they them it these those such")
)
"""First words of a clause or noun phrase about the face."""
MOVEMENTS = _of_kinds("action", "direction", "grade", "side") - _words(
    "point lead in out part clear evident high strong"
)
FACE = frozenset(
    word
    for word, entries in TABLE.items()
    for rest, (kind, value) in entries
    if not rest and ((kind == "part" and value != "none") or value in ("smile", "frown"))
)
"""Words for parts of the face, smiles and frowns. Words before a clause that include one of these are a statement about
the face, not a frame."""
