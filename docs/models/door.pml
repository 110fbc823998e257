/* The one door: at most one transition, its events with it, and every call that returns tells the truth.

   A caller talks to a backend by a connection that can be cut: before the backend gets a request, or after it has begun to work
   on it. Callers die. Rows have a lock, which an UPDATE waits for, after which it looks at the row again, as under READ COMMITTED.
   Which calls there are, and seeded bugs, are given by -D; models.md lists them. */

#ifndef DOS
#define DOS 1              /* calls of Do, */
#endif
#ifndef SETTLES
#define SETTLES 1          /* of Settle, for key 0, */
#endif
#ifndef DOTXS
#define DOTXS 0            /* of DoTx, in the caller's transaction, */
#endif
#ifndef GROUPS
#define GROUPS 0           /* and groups of two Settles, for both keys */
#endif
#ifndef CUTS
#define CUTS 1
#endif
#ifndef DEATHS
#define DEATHS 1
#endif

#define KEYS 2
#define CONNECTIONS 12
#define TOKENS 24

mtype = { Nothing, Claim, Finish, Settle, Group, Commit, Rollback,       /* requests */
          Open, Final, Won, Conflict, Rewritten, Busy, Done, Cut };      /* answers */

/* What the database holds. */
byte row[KEYS];            /* the token of the attempt that made it final, 0 while it is open: state and ledger are one here */
byte transitions[KEYS];    /* how often it became final */
byte events[KEYS];         /* of finalizations, in the outbox */
byte lock[KEYS];           /* the connection that holds the row's lock */
bool taken;                /* an earlier event has the dedup key of key 1's event, or of key 0's without groups */
bool rewrites;             /* a trigger puts key 0's row back to what it was */

/* Connections, from 1. */
mtype request[CONNECTIONS], answer[CONNECTIONS];
byte token[CONNECTIONS], token2[CONNECTIONS]; /* of the request's keys */
byte member[CONNECTIONS];  /* of a group's answer: which keys it won, as a set */
bool transaction[CONNECTIONS], gone[CONNECTIONS];
byte connections, tokens;

/* What this process remembers of key 0, from a call that has committed or read what has. */
byte cache;
bool failed[TOKENS];       /* attempts of which a caller was told that they didn't happen */
byte cuts = CUTS, deaths = DEATHS;

#ifdef GROUPED
#define TAKEN(k) (taken && (k) == 1)
#else
#define TAKEN(k) taken
#endif

/* What a seeded bug leaves out. */
#ifdef CHECK_THEN_ACT      /* the UPDATE has no condition of its own: what was looked at before decides */
#define STILL_OPEN(k)      true
#define FREE(k)            true
#else
#define STILL_OPEN(k)      (row[k] == 0)
#define FREE(k)            (lock[k] == 0)
#endif
#ifdef BELIEVE_THE_COUNT   /* a row that was hit is taken for a win */
#define KEPT(k)            true
#else
#define KEPT(k)            (!(rewrites && (k) == 0))
#endif
#ifdef IGNORE_CONFLICTS    /* ON CONFLICT DO NOTHING for a winner's event */
#define RAISES(k)          false
#else
#define RAISES(k)          TAKEN(k)
#endif

/* write is a transition with its events, as the transaction's end makes it visible. */
inline write(k, t) {
  assert(!failed[t]);
  transitions[k] = transitions[k] + 1;
  assert(transitions[k] <= 1); /* I1 */
  row[k] = (rewrites && k == 0 -> row[k] : t);
  events[k] = (TAKEN(k) -> events[k] : events[k] + 1)
}

inline reply(c, a) { request[c] = Nothing; answer[c] = a }

inline release(c) {
  lock[0] = (lock[0] == c -> 0 : lock[0]); lock[1] = (lock[1] == c -> 0 : lock[1]);
  transaction[c] = false
}

proctype Backend(byte c) {
  byte k, first;
  do
  :: request[c] == Claim ->
     atomic {
       if /* it waits while another one holds the lock */
       :: row[0] != 0 -> reply(c, Final)
       :: row[0] == 0 && FREE(0) -> lock[0] = c; transaction[c] = true; reply(c, Open)
       :: gone[c] -> request[c] = Nothing
       fi
     }
  :: atomic { request[c] == Finish ->
       if
       :: RAISES(0) -> release(c); reply(c, Conflict)
       :: !RAISES(0) && !KEPT(0) -> release(c); reply(c, Rewritten)
       :: else -> write(0, token[c]); release(c); reply(c, Won)
       fi
     }
  :: request[c] == Settle ->
     k = member[c]; /* the key */
     if
     :: atomic { !STILL_OPEN(k) && row[k] != 0 ->
#ifdef EVENTS_ANYWAY
          events[k] = events[k] + 1; /* the insert doesn't ask for the guard's row */
#endif
          reply(c, Final) }
     :: atomic { STILL_OPEN(k) && FREE(k) -> lock[k] = c; transaction[c] = true };
        atomic {
          if
          :: RAISES(k) -> release(c); reply(c, Conflict)
          :: !RAISES(k) && !KEPT(k) -> release(c); reply(c, Rewritten)
          :: else -> write(k, token[c]); release(c); reply(c, Won)
          :: gone[c] -> release(c); request[c] = Nothing
          fi
        }
     :: atomic { gone[c] -> request[c] = Nothing }
     fi
  :: request[c] == Group ->
     /* Rows in any order; whoever waits longer than the lock_timeout ends it all. */
     atomic { transaction[c] = true; member[c] = 0; if :: first = 0 :: first = 1 fi; k = first };
     do
     :: atomic { row[k] != 0 -> skip };
        if
        :: k == first -> k = 1 - first
        :: else -> break
        fi
     :: atomic { row[k] == 0 && lock[k] == 0 -> lock[k] = c; member[c] = member[c] | (1 << k) };
        if
        :: k == first -> k = 1 - first
        :: else -> break
        fi
     :: atomic { row[k] == 0 && lock[k] != 0 -> release(c); member[c] = 0; reply(c, Busy); goto next }
     :: atomic { gone[c] -> release(c); member[c] = 0; request[c] = Nothing; goto next }
     od;
     atomic {
       if
       :: (member[c] & 1) && RAISES(0) || (member[c] & 2) && RAISES(1) -> member[c] = 0; release(c); reply(c, Conflict)
       :: (member[c] & 1) && !KEPT(0) -> member[c] = 0; release(c); reply(c, Rewritten)
       :: else ->
          if
          :: member[c] & 1 -> write(0, token[c])
          :: else
          fi;
          if
          :: member[c] & 2 -> write(1, token2[c])
          :: else
          fi;
          release(c); reply(c, Done)
       fi
     };
next:
     atomic { k = 0; first = 0 }
  :: atomic { request[c] == Commit -> write(0, token[c]); release(c); reply(c, Done) }
  :: atomic { request[c] == Rollback -> release(c); reply(c, Done) }
  :: atomic { gone[c] -> release(c); request[c] = Nothing; break } /* whether it has seen the last request, or not */
  od
}

inline connect(c) { connections++; c = connections; assert(c < CONNECTIONS); run Backend(c) }
inline newToken(t) { tokens++; t = tokens; assert(t < TOKENS) }

/* ask sends a request, and waits for the answer, or for a connection that breaks. */
inline ask(c, r, t, t2, k) {
  atomic { token[c] = t; token2[c] = t2; member[c] = k; answer[c] = Nothing; request[c] = r };
  if
  :: atomic { answer[c] != Nothing -> a = answer[c]; answer[c] = Nothing }
  :: atomic { cuts > 0 -> cuts--; gone[c] = true; a = Cut }
  fi
}

/* A process that dies takes its connections along. */
#define MAY_DIE(c) if :: atomic { deaths > 0 -> deaths--; gone[c] = true; goto dead } :: true fi

inline won(k, t)  { assert(row[k] == t) }                    /* I3 */
inline lost(k, t) { assert(row[k] != 0 && row[k] != t) }     /* I4 */

/* resolve finds out what became of a COMMIT that got no answer: its transaction has to have ended. */
inline resolve(c, t) {
#ifndef RESOLVE_EARLY
  !transaction[c];
#endif
  atomic {
    if
    :: row[0] == t -> won(0, t)
    :: row[0] != 0 && row[0] != t -> lost(0, t)
    :: row[0] == 0 -> failed[t] = true
    fi
  }
}

proctype Do() {
  byte c, t;
  mtype a;
  atomic { newToken(t); connect(c) };
  MAY_DIE(c);
  ask(c, Claim, t, 0, 0);
  if
  :: a == Cut -> atomic { failed[t] = true }
  :: a == Final -> atomic { lost(0, t); cache = row[0] }
  :: a == Open ->
     MAY_DIE(c);
     if /* the callback */
     :: ask(c, Rollback, t, 0, 0); /* it isn't ready, or fails */
        atomic { failed[t] = true }
     :: ask(c, Finish, t, 0, 0);
        if
        :: a == Won -> atomic { won(0, t); cache = t }
        :: a == Conflict || a == Rewritten -> atomic { failed[t] = true }
        :: a == Cut -> resolve(c, t)
        fi
     fi
  fi;
dead:
  gone[c] = true
}

proctype SettleOne(byte k; byte again) {
  byte c, t, mine;
  mtype a;
  atomic {
    if /* what is known to be final is answered from memory */
    :: k == 0 && cache != 0 -> assert(row[0] == cache); goto over
    :: else
    fi;
    if
    :: again == 0 -> newToken(t)
    :: else -> t = again
    fi;
    mine = t
  };
  do
  :: atomic { connect(c) };
     MAY_DIE(c);
     if /* look first, where losses prevail */
     :: atomic { row[k] != 0 -> a = Final }
     :: row[k] == 0 -> ask(c, Settle, t, 0, k)
     :: ask(c, Settle, t, 0, k)
     fi;
     if
     :: a == Won -> atomic { won(k, t); cache = (k == 0 -> t : cache) }; break
     :: a == Final -> /* the receipt is read by a second statement: it may be one's own, of an attempt before */
        atomic {
          if
          :: row[k] == t -> won(k, t)
          :: else -> lost(k, t); assert(row[k] != mine)
          fi;
          cache = (k == 0 -> row[0] : cache)
        };
        break
     :: a == Conflict || a == Rewritten -> atomic { failed[t] = true }; break
     :: a == Cut -> /* again, with the same token */
        gone[c] = true;
#ifdef BLIND_RETRY
        atomic { newToken(t) }
#endif
        skip
     fi
  od;
dead:
  gone[c] = true;
over:
  skip
}

proctype DoTx() {
  byte c, t;
  mtype a;
  atomic { newToken(t); connect(c) };
  ask(c, Claim, t, 0, 0);
  if
  :: a == Open && !TAKEN(0) && KEPT(0) ->
#ifdef CACHE_IN_TRANSACTION
     cache = t; /* nobody knows yet whether it commits */
#endif
     MAY_DIE(c);
     if
     :: ask(c, Commit, t, 0, 0)
     :: ask(c, Rollback, t, 0, 0)
     fi
  :: else
  fi;
dead:
  gone[c] = true
}

/* A leader settles both keys, for two callers. What can't go together goes alone. */
proctype SettleGroup() {
  byte c, t, t2;
  mtype a;
  atomic { newToken(t); newToken(t2); connect(c) };
  MAY_DIE(c);
  ask(c, Group, t, t2, 0);
  if
  :: a == Done ->
     atomic {
#ifdef WINS_BY_COUNT
       /* As many as won, from the first. */
       if
       :: member[c] == 3 -> won(0, t); won(1, t2)
       :: member[c] == 1 || member[c] == 2 -> won(0, t); lost(1, t2)
       :: member[c] == 0 -> lost(0, t); lost(1, t2)
       fi
#else
       if
       :: member[c] & 1 -> won(0, t)
       :: else -> lost(0, t)
       fi;
       if
       :: member[c] & 2 -> won(1, t2)
       :: else -> lost(1, t2)
       fi
#endif
     }
  :: else ->
     run SettleOne(0, t); run SettleOne(1, t2)
  fi;
dead:
  gone[c] = true
}

init {
  byte n;
  atomic {
    if
    :: taken = true
    :: rewrites = true
    :: true
    fi;
    n = 0; do :: n < DOS -> run Do(); n++ :: else -> break od;
    n = 0; do :: n < SETTLES -> run SettleOne(0, 0); n++ :: else -> break od;
    n = 0; do :: n < DOTXS -> run DoTx(); n++ :: else -> break od;
    n = 0; do :: n < GROUPS -> run SettleGroup(); n++ :: else -> break od
  };
  /* When all have ended: no state without its events, no event without its state (I2), and nothing is held (I7). */
  _nr_pr == 1;
  assert((row[0] != 0) == (events[0] == 1) && events[0] <= 1);
  assert((row[1] != 0) == (events[1] == 1) && events[1] <= 1);
  assert(lock[0] == 0 && lock[1] == 0)
}
