//! Cue words by group: what a prompt talks about and what it asks to be done. One readable table; looked up by hash.

/// Number of groups.
pub(super) const CUES: usize = GROUPS.len();
/// Number of groups of words that are counted as amounts of work.
pub(super) const WORKS: usize = WORK.len();
/// Number of kinds of task, and which is which.
pub(super) const KINDS: usize = TASKS.len();
pub(super) const WORKED: usize = 0;
pub(super) const FREE: usize = 1;
pub(super) const DATA: usize = 2;
pub(super) const SEED: u32 = 0x811C_9DC5;
const SLOTS: usize = 2048;

pub(super) const PROOF: usize = 0;
pub(super) const MATHS: usize = 1;
pub(super) const PHYSICS: usize = 2;
pub(super) const LAW: usize = 3;
pub(super) const ALGORITHM: usize = 4;
pub(super) const MEDICINE: usize = 5;
pub(super) const SYSTEMS: usize = 6;
pub(super) const CODING: usize = 7;
pub(super) const EXPLAIN: usize = 8;
pub(super) const COMPARE: usize = 9;
pub(super) const COUNT: usize = 10;
pub(super) const QUANTITY: usize = 11;
pub(super) const LOGIC: usize = 12;
pub(super) const CONSTRAINT: usize = 13;
pub(super) const NEGATION: usize = 14;
pub(super) const STEPS: usize = 15;
pub(super) const EASY: usize = 16;
pub(super) const SMALL_TALK: usize = 17;
pub(super) const CREATIVE: usize = 18;
pub(super) const MONEY_TIME: usize = 19;
pub(super) const CLAUSES: usize = 20;
pub(super) const ECONOMY: usize = 21;
pub(super) const CHEMISTRY: usize = 22;
pub(super) const MORALS: usize = 23;
pub(super) const FILES: usize = 24;
pub(super) const PEOPLE: usize = 25;

/// Name and cues of each group; a phrase of two words is written with a comma or a hyphen.
const GROUPS: [(&str, &str); 26] = [
    (
        "proof",
        "prove proof theorem lemma corollary axiom induction contradiction bijection injective surjective irrational converges convergence continuous isomorphic homomorphism topology undecidable rigorous rigorously derive disprove conjecture countable uncountable",
    ),
    (
        "maths",
        "integral derivative differentiate integrate equation polynomial matrix eigenvalue eigenvalues determinant vector modulo prime primes divisor logarithm trigonometric sine cosine tangent probability permutation permutations combination combinatorics geometry triangle circle radius angle hypotenuse function limit series sequence algebra calculus factorial quadratic roots real,numbers solve compute evaluate simplify variance deviation statistic regression hypothesis gcd lcm",
    ),
    (
        "physics",
        "velocity acceleration momentum force energy quantum relativity thermodynamics entropy electron photon magnetic electric circuit resistance voltage capacitor wavelength frequency gravity gravitational kinetic torque newton joule lagrangian hamiltonian schrodinger nucleus neutron orbit pressure",
    ),
    (
        "law",
        "law legal court plaintiff defendant statute contract liability liable negligence tort jurisdiction constitutional constitution amendment felony misdemeanor murder appeal breach damages clause indemnify indemnification gdpr hipaa fiduciary estoppel easement hearsay deed landlord tenant lawsuit sued attorney regulation compliance antitrust plea",
    ),
    (
        "algorithm",
        "algorithm algorithms complexity dynamic,programming recursion recursive backtracking graph dijkstra shortest tree heap hash np np-hard greedy knapsack topological binary bfs dfs subsequence subarray palindrome concurrent lock lock-free linearizable consensus paxos raft amortized scheduler parser compiler bitmask trie",
    ),
    (
        "medicine",
        "patient patients diagnosis diagnose symptoms treatment dose mg clinical disease syndrome artery cancer tumor blood pain history fever infection antibiotic surgery chronic acute renal cardiac pulmonary drug enzyme gene protein cell cells",
    ),
    (
        "systems",
        "architecture architect distributed microservice microservices scalable scalability latency throughput transaction transactions deadlock replication sharding consistency fault-tolerant kubernetes docker authentication oauth jwt migration migrations schema database postgres redis kafka event-driven cqrs websocket multi-tenant rollback idempotent encryption security rate-limiting",
    ),
    (
        "coding",
        "code function implement class method python rust java javascript typescript golang sql program script refactor debug bug endpoint endpoints api fastapi django flask react unit tests test compile exception async library module cli regex def return returns string list array integer",
    ),
    (
        "explain",
        "explain why justify analyze analyse evaluate assess critique argue discuss derive reason interpret implications implication consequences tradeoffs trade-offs",
    ),
    (
        "compare",
        "compare contrast versus vs difference differences better best worst optimal optimize optimise maximize minimise minimize maximum minimum largest smallest most least",
    ),
    ("count", "how,many how,much how,long how,far how,old how,fast"),
    (
        "quantity",
        "half twice double triple third quarter per each every total altogether sum remaining left more fewer less percent percentage ratio rate average times combined spends spent earns costs sells buys equally",
    ),
    (
        "logic",
        "if then unless implies therefore suppose assume given only,if either neither both all some none statement statements true false premise premises conclusion valid invalid follows deduce puzzle clue clues houses",
    ),
    (
        "constraint",
        "must should shall exactly at,least at,most without ensure require requires required requirements constraint constraints strictly only never always including handle handling edge,cases support supports",
    ),
    ("negation", "not no except cannot can't doesn't don't isn't without neither nor least incorrect false"),
    (
        "steps",
        "first second next finally afterwards step steps step-by-step phase stage multiple several complete entire full comprehensive detailed thorough end-to-end",
    ),
    (
        "easy",
        "translate translation format reformat convert uppercase lowercase capitalize rename spelling spell typo typos proofread rephrase paraphrase summarize summarise summary tldr shorten extract list,names alphabetize copy repeat indent prettify clean tabulate bullet transcribe reverse sort count list,the fix,the remove,duplicates grammar label tag",
    ),
    (
        "small_talk",
        "hello hi hey thanks thank goodbye morning joke joking weather name greet greeting capital,of what,is who,is who,was when,was where,is define synonym synonyms antonym",
    ),
    (
        "creative",
        "story poem write,a haiku lyrics song imagine roleplay role-play pretend character essay blog email letter tagline slogan tweet creative fictional dialogue speech haiku limerick headline outline travel recipe persona act,as",
    ),
    (
        "money_time",
        "dollars cents price cost hours minutes days weeks years months year day week hour minute miles feet pounds dollar pay paid salary wage profit discount tax interest",
    ),
    ("clauses", "which who whom whose because although however whereas while when where after before since until that despite"),
    (
        "economy",
        "demand supply market inflation gdp monetary fiscal price,elasticity revenue firm monopoly equilibrium tax asset assets depreciation accounting audit bond bonds equity investment trade currency unemployment marginal",
    ),
    (
        "chemistry",
        "reaction molecule acid base oxidation bond bonding atom atoms ion ions compound mole moles molar equilibrium catalyst enthalpy organic solution ph electron titration",
    ),
    ("morals", "moral morally wrong right ethical ethics scenario scenarios justice virtue kant utilitarian duty rights society"),
    (
        "files",
        "file files folder directory dockerfile readme config module modules package project repository service services frontend backend model models schema migration makefile yaml toml",
    ),
    ("people", "he she his her him they their them boy girl man woman friend friends mother father brother sister son daughter family"),
];

/// Words of which a text holds the more, the more there is to be worked out or kept in mind: each, twice, more than, what is left,
/// in which order, money, time, numbers in words, negation, whom it speaks of, how its parts hang together, rates. No phrases.
const WORK: [&str; 13] = [
    "each every per apiece",
    "twice double triple thrice times half third quarter fourth fifth",
    "more less fewer than longer shorter older younger",
    "left remain remains remained remaining rest",
    "total altogether combined sum all",
    "if when while then after before until",
    "dollar dollars cent cents cost price pay paid sell sold buy bought spend spent",
    "hour hours minute minutes day days week weeks month months year years daily weekly",
    "one two three four five six seven eight nine ten eleven twelve dozen hundred first second",
    "not no without except",
    "he she they it his her their",
    "and also but however",
    "rate speed average ratio profit interest discount tax area miles pounds",
];

/// Words and pairs of words that tell what an open question wants: an answer to be worked out, which can be wrong (calculation, code,
/// puzzles), a text that many answers would do for (writing, playing a part, opinion, overview), or data in JSON. A word may stand in a
/// group above too.
const TASKS: [&str; 3] = [
    "solve compute calculate evaluate simplify determine find,the find,all prove derive integral derivative equation equations inequality polynomial quadratic matrix determinant remainder divisible divisor divisors multiple,of multiples factorial prime primes integer integers digit digits decimal fraction perimeter area volume radius circle triangle rectangle hypotenuse angle angles vertices
        probability odds dice coin coins marbles permutations combinations arrangements random average mean,of median sum,of product,of square,root cubed percent percentage how,many how,much how,fast how,far how,long ratio twice least,value greatest,value maximum minimum what,value value,of
        python java javascript typescript rust golang kotlin swift php perl ruby haskell sql bash regex shell,script c,program program function functions method algorithm algorithms array arrays string strings substring subarray linked,list hash,map binary,tree binary,search queue stack recursion recursive recursively loop implement debug bug code snippet compile compiler runtime unit,test unit,tests time,complexity complexity big,o api endpoint def str int boolean elif init args param query web,page button dictionary tuple sorted sorting o,n
        riddle puzzle logic logical logically deduce deduction premise premises syllogism liar lies truth,teller true,or statement,is statements,are who,is,the which,of,these which,word odd,one not,belong belong,with pattern sequence next,number next,in taller shorter,than older,than younger faster,than heavier lighter,than left,of right,of next,to sits seated row upside clockwise directly,left conclude must,be explain,your your,reasoning step,by web,site in,html",
    "draft compose blog essay article a,letter letter,to email newsletter announcement speech toast story poem haiku sonnet limerick lyrics song novel scene dialogue monologue script,for paragraph tone style slogan tagline headline product,description cover,letter outline podcast travel itinerary review,of creative vivid vividly engaging compelling captivating persuasive friendly warm humorous funny witty
        pretend imagine act,as acting,as role roleplay persona a,character in,character stay,in you,are from,now suppose,you you,will your,name as,if,you as,though speak,as respond,as reply,as answer,as i,want,you
        discuss describe overview themes theme symbolism novels literature poetry art artists history historical century war wars revolution empire religion religious philosophy philosophical politics political society societies social culture cultural ethics ethical moral morality rights democracy economic economy economics policy views,of arguments,for impact,of role,of influence,of significance advice tips recommend suggest improve ideas",
    "as,json in,json json,format json,object json,array json,list json,like return,json returns,json respond,json output,json with,json following,json valid,json only,json json,schema json,string",
];

/// All tables, hashed once.
pub(super) struct Lexicon {
    cues: Slots,
    works: Slots,
    tasks: Slots,
}

impl Lexicon {
    pub fn new() -> Self {
        Self {
            cues: Slots::of(GROUPS.iter().map(|(_, words)| *words)),
            works: Slots::of(WORK.into_iter()),
            tasks: Slots::of(TASKS.into_iter()),
        }
    }

    /// The group of cues of a word, or of a pair of words.
    pub fn cue(&self, hash: u32) -> Option<usize> {
        self.cues.get(hash)
    }

    /// The group of work of a word.
    pub fn work(&self, hash: u32) -> Option<usize> {
        self.works.get(hash)
    }

    /// `WORKED`, `FREE` or `DATA`, of a word or of a pair of words.
    pub fn task(&self, hash: u32) -> Option<usize> {
        self.tasks.get(hash)
    }
}

/// Hashes of words and the group of each.
struct Slots(Vec<(u32, u8)>);

impl Slots {
    fn of<'a>(groups: impl Iterator<Item = &'a str>) -> Self {
        let mut slots = Self(vec![(0, 0); SLOTS]);
        for (index, words) in groups.enumerate() {
            for word in words.split_whitespace() {
                let mut parts = word.split([',', '-']).map(word_hash);
                let first = parts.next().unwrap_or(SEED);
                slots.put(parts.next().map_or(first, |second| pair(first, second)), u8::try_from(index).unwrap_or(0));
            }
        }
        slots
    }

    fn get(&self, hash: u32) -> Option<usize> {
        let mut at = slot(hash);
        loop {
            match self.0[at] {
                (0, _) => return None,
                (found, group) if found == hash => return Some(usize::from(group)),
                _ => at = (at + 1) % SLOTS,
            }
        }
    }

    /// The first group that claims a word keeps it.
    fn put(&mut self, hash: u32, group: u8) {
        let mut at = slot(hash);
        while self.0[at].0 != 0 {
            if self.0[at].0 == hash {
                return;
            }
            at = (at + 1) % SLOTS;
        }
        self.0[at] = (hash, group);
    }
}

impl std::fmt::Debug for Lexicon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lexicon").finish_non_exhaustive()
    }
}

fn slot(hash: u32) -> usize {
    (hash.wrapping_mul(0x9E37_79B1) >> 21) as usize % SLOTS
}

/// FNV-1a over the lower-cased bytes.
pub(super) fn fold(hash: u32, byte: u8) -> u32 {
    (hash ^ u32::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0193)
}

pub(super) fn pair(first: u32, second: u32) -> u32 {
    first.rotate_left(5).wrapping_mul(0x9E37_79B1) ^ second
}

fn word_hash(word: &str) -> u32 {
    // As the scan does: an apostrophe inside a word leaves no trace.
    word.bytes().filter(|byte| byte.is_ascii_alphabetic() || *byte >= 0x80).fold(SEED, fold)
}
