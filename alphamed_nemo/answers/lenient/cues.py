"""The wordings by which a response states its answer, as patterns over lower-case text.

Every pattern is anchored where it is used (`.match` at a keyword) and each repetition has a bound, so that trying one
costs the same whatever the text. `KEY` is the only pattern that scans; its branches all begin with a literal, which
lets the engine skip by first character.
"""

from __future__ import annotations

import re

_ADVERB = (  # spaces are escaped because some of the patterns below are verbose
    r"(?:therefore|thus|then|hence|clearly|definitely|certainly|most\ likely|most\ probably|very\ likely|probably"
    r"|likely|now|simply|actually|indeed|still|in\ fact|also|undoubtedly|unequivocally|ultimately|of\ course"
    r"|almost\ certainly)"
)
_VERB = (
    r"(?:(?:(?:is|are|was|remains|becomes)\b|'s\b)|(?:would|should|must|will|has\ to|have\ to|seems\ to|appears\ to"
    r"|can\ only|needs\ to)"
    rf"\s+(?:{_ADVERB}\s+)?(?:be|have\ to\ be)\b)"
)
_OF_PREDICATE = rf"(?=\ (?:{_ADVERB},?\ )?(?:the|my|our|your|correct|right|best)\b)"  # what PREDICATE goes on with

# Questions that ask for the exception: "the incorrect statement is", "the statement that is NOT true is".
_BEFORE_STATEMENT = (
    r"(?=\ (?:statement|one|assertion|claim|association|pair|pairing|match|combination|option|choice|item)\b)"
)
_NEGATED = (
    r"\ (?:(?:is|are|was|does|do|did|can|would|should|has|will)(?:n't|\ not)"
    r"|(?:is|are|must\ be)\ (?:incorrect|false|untrue|wrong|inaccurate|the\ exception))\b"
)

# Words that may open a statement; what follows (or precedes) decides. A word's own character before it is part of the
# match: so the engine skips from word to word by a set of characters.
KEY = re.compile(
    r"[^a-z](a(?:nswer|ns(?=[ .:=-])|ppears to be(?= ))|b(?:oxed|est (?:fits|matches|answers|explains)|est)"
    r"|c(?:ho(?:ice|os|se)|on(?:clu(?:sion|de)|sequently)|orrect)|d(?:iagnosis|ecision)"
    r"|e(?:limination|xc(?:lusion|eption|ept(?=[ :])))"
    rf"|f(?:its best|its the|inal|alse{_BEFORE_STATEMENT})|g(?:uess|o(?:ing)? with)|hence"
    rf"|i(?:n(?:correct|accurate){_BEFORE_STATEMENT}|s{_OF_PREDICATE}|t's|t is|t must be)"
    r"|l(?:abel|eav(?:es|ing)|east(?= ))"
    rf"|m(?:ak(?:es|ing)(?= )|ost|ust be{_OF_PREDICATE})|o(?:ptions?|pt for)|p(?:ick|rediction)"
    r"|r(?:e(?:sponse|sult|mains)|ight)"
    rf"|s(?:elect(?:ion)?|eems to be(?= )|o\b|ay|olution|ettle on|hould be{_OF_PREDICATE})"
    rf"|o(?:dd one)|th(?:erefore|us|is is|at(?={_NEGATED})|at is|at's)|u(?:ltimately|ntrue{_BEFORE_STATEMENT})"
    rf"|v(?:erdict|ote for)|w(?:ent with|hich(?={_NEGATED})|hich is|rong{_BEFORE_STATEMENT}|ould be{_OF_PREDICATE})"
    r"|\[(?=\[)|答案(?!选|\[\[)|选)"
)
NOUNS = frozenset(
    "answer option choice response selection conclusion diagnosis guess prediction solution decision verdict "
    "result label final 答案".split()
)
VERBS = frozenset(
    "choos chose select pick leaves leaving say conclude".split()
    + ["go with", "going with", "went with", "opt for", "settle on", "vote for"]
)
MAKES = frozenset(("makes", "making"))
SHORTENED = re.compile(r"\s?[.:=–-]{1,2}\s?|(?<=^ans)\s|(?<=\nans)\s")  # after "ans"
LEADS = frozenset(
    "therefore thus hence so elimination exclusion consequently ultimately it's that's".split()
    + ["it must be", "this is", "that is", "which is"]
)
SUPERLATIVES = frozenset("most best correct right least".split())
EXCEPTIONS = frozenset(("incorrect", "inaccurate", "false", "untrue", "wrong", "exception", "odd one"))

# answer → its verb or colon: "answer to this question would therefore be", '"answer_choice":', "answer**:", "answer ⇒";
# with more words between them no "=" or "-", which may be anywhere in a formula
LINK = re.compile(
    rf"""(?:[ _-]?(?:choice|option|letter|selection|key|index|idx|id|s|selected|label))?(?:\(s\))?
    [*_`"'\])}}>]{{0,8}}\s{{0,3}}
    (?P<more>(?:to|for|of|in|here|given|from|among|based|according|that|which|i|we|you|at|with)\b[^.!?:\n]{{0,90}}?)?
    [*_`"')]{{0,6}}\s{{0,3}}(?:,\s{{0,2}}{_ADVERB},?\s{{0,2}})?
    (?:\b(?:{_ADVERB}\s+){{0,2}}{_VERB}|:|(?(more)->|(?:[=>]|-{{1,2}}>?\s))|→|⇒|=>|\n|是|为|选)""",
    re.X,
)
# between the link and the letter: fillers and opening marks
OPENING = re.compile(
    rf"""(?:[\s*_`"'$>(\[{{:<#=,-]|[^\w\x00-\x7f]|\\[a-z]{{1,12}}|\\.|=>|→
    |(?:{_ADVERB}|the|an?\s(?=clear|definite)|option|choice|letter|answer|number|statement|as\ follows
       |given\ by|indicated\ by|following|indicated\ as|clear|definite|clearly|is|be|selected|final|correct|best|one
       |i\ think|i\ believe|i\ would\ say|closest\ to|nearest\ to)\b){{0,40}}""",
    re.X,
)
# instead of a choice: "the answer is none of the above", '"answer": "not enough information"'
NO_OPTION = re.compile(
    r"[\s\"'*_(:]{0,6}(?:none\b|neither\b|nothing\b"
    r"|not (?:listed|provided|available|given|present|among|any|enough|possible)\b"
    r"|no (?:\w+ ){0,2}(?:answer|option|choice)s?\b|unknown\b|undetermined|information not\b|insufficient\b"
    r"|an? combination of\b|(?:cannot|can't) be\b|unable to\b|n/a\b|all of (?:the above|them|these)\b)"
)
# after a statement: what it states is no option
NOT_OFFERED = re.compile(
    r"\b(?:this|that|it|which|answer|value|result)\s(?:is|was)(?:n't| not)"
    r"\s(?:(?:an? |any |one )?(?:of the |of these )?(?:given |provided |listed |available )?"
    r"(?:options?|choices?)\b(?! for)"
    r"|(?:among|in|listed|given|provided|present)\b[^.!?\n]{0,30}\b(?:options|choices|list)\b)"
    r"|\b(?:no|none of the) (?:\w+ ){0,2}(?:options?|choices?|answers?) (?:(?:given|provided|listed|offered|above) )?"
    r"(?:is correct|are correct|match(?:es)?|fits?)\b"
)
BLANKS = re.compile(r"[\s*_]{0,20}")
MARKS = re.compile(r"[\s*_`\"'$>(\[{:<#=,-]{0,20}")
# what may stand before a noun whose answer is on the next line: "## Final Answer"
HEADING = re.compile(r"(?:^|\n|<)[\s*#_>]{0,8}(?:(?:the|my|our|final|correct|best|most likely)\s+){0,3}$")
# after a choosing verb: "choosing option", "select the answer", "leaves us with only"
VERB_TAIL = re.compile(
    r"(?:e|es|ed|ing|s|en)?\b(?:\s+(?:that|us|me|with|only|on|just|as|for|my|the|final|correct|best|answer|option"
    r"|choice|letter|is|:)){0,8}[\s:*_`\"'$(\[]{0,10}"
)
# after a superlative noun phrase: "most likely cause of her symptoms is"
SUPERLATIVE = re.compile(
    rf"(?:most|best|correct|right|least)\b(?P<noun>[^.!?:;\n]{{0,90}}?)(?:\s+(?:{_ADVERB}\s+){{0,2}}{_VERB}|:)"
)
# after "incorrect", "exception", "odd one": "statement is"
EXCEPTION = re.compile(
    rf"(?: out)?(?P<noun> [a-z]+\b)?[*_]{{0,4}}(?P<more>[^.!?:;\n]{{0,60}}?)(?:\s(?:{_ADVERB}\s)?{_VERB}|[*_]{{0,4}}:)"
)
BEFORE_EXCEPTION = re.compile(r"(?:\b(?:the|one|only|single)\s|(?:^|\n)[\s*#_>-]{0,6})$")
# from "that" or "which": "that is NOT true is"
RELATIVE = re.compile(rf"{_NEGATED}[^.!?:;\n]{{0,80}}?(?:\s(?:{_ADVERB}\s)?{_VERB}|:)", re.X)
BEFORE_RELATIVE = re.compile(r"\b(?:the|one|only)\s(?:[a-z]+\s){0,3}$")
BEFORE_EXCEPT = re.compile(r"(?<!answer is )\b(?:all|every|each|everything|any)\s(?=\S+\s\S)[^.!?{}\n]{1,120}$")
# "C is the correct answer", "option C is correct", "ibuprofen would be the best choice": the predicate
_ADJECTIVE = (
    r"(?:(?:single|only|one|most|best|correct|right|final|likely|appropriate|accurate|suitable|probable|reasonable"
    r"|fitting|consistent|logical|plausible|true|clear|next|strongest)\s?)"
)
PREDICATE = re.compile(
    rf"""(?:(?:is|would\ be|must\ be|should\ be|remains|seems\ to\ be|appears\ to\ be)\ (?:{_ADVERB},?\ )?
    (?:(?:the|my|our|your)\ {_ADJECTIVE}{{0,5}}(?:answer|option|choice|one|diagnosis|selection|response
       |explanation|pick|step|cause|treatment|therapy|drug|test|mechanism|finding|match|fit)?
       (?:\ choice|\ in\ management|\ to\ (?:this|the)\ question)?
     |the\ (?:only\ )?(?:incorrect|false|untrue|inaccurate|wrong)\ (?:statement|one|assertion|claim)
     |the\ exception|the\ odd\ one(?:\ out)?
     |the\ (?:statement|one|option|choice)\ (?:that|which)\ (?:is|does|are)(?:n't|\ not)[^.!?\n]{{0,60}}
     |correct|right|best|the\ answer)
    |fits\ best|fits\ the\ (?:best|picture|findings|description)(?:\ best)?
    |best\ (?:fits|matches|answers|explains)\ [^.!?\n]{{0,60}}|remains)
    (?=\s*(?:[.,;!*)"'\n\]}}$]|$|because\b|since\b|as\b|given\b|due\ to\b|here\b|among\b|based\b|[—–-]\s
       |(?:in|for|to)\ this\ (?:case|question|patient|scenario|vignette|situation)))""",
    re.X,
)
# "which makes C the correct answer": what follows the letter
MADE = re.compile(
    r"[\s*)\]\"']{1,6}(?:the|my|our)\b[^.!?\n]{0,40}?\b(?:answer|option|choice|correct|best|likely|appropriate)\b"
)
LEAD_IN = re.compile(
    r"(?:(?:therefore|thus|hence|so|then|and|but|in conclusion|in summary|overall|finally|ultimately|consequently"
    r"|accordingly|i (?:think|believe|conclude|would say)|we (?:conclude|see|know)|this means|meaning|it is clear"
    r"|clearly|that|only|among these|of these|of the options|based on this|given this|because of this"
    r"|for these reasons|as such)\b[\s,:]{0,3}){1,5}"
)

# What may follow a letter that stands without punctuation ("the answer is C because ...").
CONNECTIVE = re.compile(
    r"(?:because|since|as|due|given|based|which|therefore|so|where|when|according|rather|not|instead|over|but|for|by"
    r"|on the|considering|with (?:the|a) (?:reason|explanation|following)|in (?:this|the|our|my)|this|it|the|here"
    r"|from|among|i\.e|e\.g|is the|is my|would be the|and (?:not|the|this|it|i|that|here)|\w{0,3}final|explanation"
    r"|reason)\b"
)
ANOTHER_LETTER = re.compile(
    r"[\s*_)\]\"'`$]{0,6}(?:,|/|&|\+|;|and|or|and/or|vs\.?|versus)(?:\s+(?:possibly|maybe|perhaps|also|either"
    r"|alternatively))?[\s,]*(?:or\s+|and\s+)?(?:also |option "
    r"|choice )?[(\[*\"'`$]{0,4}([a-z])(?=[)\]}*\"'`$]{0,4}\s*(?:[.,;:!/&+)}\n]|$|and\b|or\b|are\b|both\b|as\b"
    r"|depending\b))"
)
OTHERS_WRONG = re.compile(  # after "C, A and B": the letters that follow are another sentence's subject
    r"[^.!?\n]{0,60}?\b(?:is|are|were|would be)\s(?:\w+ly\s)?(?:all\s)?(?:wrong|incorrect|false|not|distractors"
    r"|excluded|less|unlikely|ruled out|contraindicated|inappropriate)\b"
)
ANOTHER_SENTENCE = re.compile(r"[^.!?;\n]{0,40}?\b(?:is|are|were|was|do|does|have|has|would)\b")  # after "C; A and B"
# The verb phrase after a letter that makes it a subject, not an answer ("so option A is wrong").
CONDITION = re.compile(r"[\s,)*]{0,4}(?:only )?(?:if|unless|provided|assuming|were it|had the)\b")
DENIAL = re.compile(
    r"[\s*\"'(]{0,6}(?:not|neither|none|never|unlikely|either|both|between|one of|any of|n't|no longer|unclear"
    r"|unknown|unable|yet)\b"
)
NOT_BUT = re.compile(
    r"[\s*\"'(]{0,4}not\s+(?:option |choice )?[\"'(*]{0,3}[a-z][\"')*]{0,3}\b(?:[^.!?;\n]{0,90}?(?=, but rather ))?"
    r"\s*[,;]?\s*(?:but\s+)?(?:rather|instead"
    r"|it is|it's|but)\s"
)

# after a box: "\\boxed{A} is tempting", not "... is the correct answer"
NO_PREDICATE = re.compile(r"[\s$*)\]\\]{0,6}\s(?:is|was|would be|looks|seems)\s(?!the\b|my\b|our\b|correct|right|best)")
# The letter is a subject: "so (B) is wrong".
SUBJECT = re.compile(
    r"[\s*)\]\"']{1,6}(?:is|was|are|can|would|does|do|has|may|might|fails|seems|doesn't|isn't|cannot|can't|could"
    r"|should|will|causes|refers)\b"
)
RETRACTION = re.compile(
    r"wait[,.!…]|wait no|scratch that|on second thought|let me (?:reconsider|rethink|re-think|re-evaluate|start over"
    r"|try again)|i take (?:that|it) back|i made an? (?:mistake|error)|i was wrong|i am wrong|i'm wrong"
    r"|i was mistaken|actually,? no\b|hmm,? no\b|no, that (?:is|was|can|'s)|no, that's"
)
HEDGE = re.compile(
    r"\b(?:not|n't|never|cannot|rule[sd]?|ruling|exclud\w+|eliminat\w+|incorrect|wrong|unlikely|against|unlike|except"
    r"|rather|neither|nor|instead|either|or|between|might|could|may|maybe|perhaps|possibl[ey]|if|whether|unclear"
    r"|consider\w*|look\w*|evaluat\w+|examin\w+|analy[sz]\w+|discuss\w*|next|compar\w+|less|no|without|false"
    r"|distractors?|refut\w+|reject\w*|contradict\w*|than|explor\w+|assess\w*|skip|ignore|versus|vs|moving|turn\w*"
    r"|remaining|such as|like|step|figure|table|panel)\b|n't\b|\?"
)
AGAINST = re.compile(  # in the reason given with a letter: it speaks against that option
    r"\b(?:incorrect|wrong|false|unlikely|less likely|ruled out|contraindicated|inappropriate|excluded|distractor"
    r"|not (?:the |a |be )?(?:correct|right|best|most|likely|appropriate|indicated|fit|consistent|typical"
    r"|answer|true|seen)|doesn't|does not|isn't|wouldn't|would not|cannot|can't|rather|whereas|however|but|if"
    r"|would be|could|might|may)\b|\?"
)
CONCLUDING = re.compile(
    r"\b(?:therefore|thus|hence|so|consequently|conclusion|summary|overall|consistent with|correspond\w*|match\w*"
    r"|points? to|fits|is|leads? to|indicates?|suggests?|supports?|align\w*|answer|choose|select|be|identif\w+"
    r"|confident|with|to|→|=)\b"
)
TYPE_NOUN = re.compile(
    r"(?:vitamins?|hepatitis|type|group|class|factor|grade|stage|figure|fig|table|panel|phase|protein|complex|antigen"
    r"|influenza|immunoglobulin|ig|receptor|schedule|category|child-pugh|pugh|interleukin|apolipoprotein|hemoglobin"
    r"|haemoglobin|troponin|cyclin|cells?|cohort|arm|lead|part|section|appendix|exhibit|image|box|plan|patient"
    r"|subject|drug|strain|serotype|coenzyme|point|line|level|form|subtype|toxin|patients|haemophilia|hemophilia"
    r"|streptococc\w+|strep|allele|gene|node|wave|segment|curve|graph|region|area|zone|sample|site|plasma"
    r"|score)s?[\s-]*$"
)
