/*
 * params.c - the settings: the table, strict parsing, and what to say about a name that is not in it
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <ctype.h>
#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/params.h"

#define PREFIX "CROSSPRESS_"
#define NAME_MAX_LEN 48

extern char **environ;

/* One row of the table, in the order of xp_info. `def` is parsed like a value from the environment. */
static const struct xp_param_info table[] = {
    {"MODE", "raw|exact|bounded[:EPS]", "exact", "what the receiver gets: the bytes, or rows within EPS (lossy, opt-in)"},
    {"EPS", "0 < x < 1", "0.03", "bounded: largest relative L2 error of a row"},
    {"EPS_REF", "min|row", "min", "what EPS is relative to: min(|x|, |x - mean row|), or |x|"},
    {"CODEC", "name", "auto", "codec of every plan that names none"},
    {"RATE", "0 .. 1", "0", "folded: centroids per row; 0 = found from the data"},
    {"ALGO", "auto|flat|hier|leader", "auto", "all-to-all algorithm of every plan that names none"},
    {"ISA", "auto|c|avx2|avx512|avx512bf16", "auto", "highest instruction set of the kernels"},
    {"TRANSPORT", "auto|shm|tcp|ucx", "auto", "what moves bytes: auto = shm inside a node, ucx between nodes"},
    {"ROW", "type:dim", "", "row type and length that preloaded programs send, such as bf16:4096"},
    {"TIMEOUT", "seconds > 0", "300", "deadline of every wait; start-up waits at most 60 s"},
    {"SECRET", "16 characters or more", "", "shared secret of the job's start-up handshake"},
    {"ROOT", "host:port", "", "where rank 0 listens; default: from the launcher"},
    {"NODE", "text", "", "ranks of equal text share a node; default: boot id and network namespace"},
    {"INTERFACE", "name", "", "network interface for start-up and tcp; default: the route to rank 0"},
    {"LOG", "none|error|warn|info|debug", "none", "lines on stderr"},
    {"STATS", "0|1", "0", "one line of figures per plan when it is destroyed (LOG=info or higher shows it)"},
    {"CHUNK", "bytes[K|M]", "256K", "bytes of rows in one message"},
    {"HEARTBEAT", "0.01 .. 60 s", "1", "seconds between signs of life; a peer silent for 10 of them is gone"},
    {"GROUPS", "off|auto|complete|sparse", "auto", "preloaded: which groups of sends and receives are an all-to-all"},
    {"MIN_SIZE", "bytes[K|M]", "65536", "preloaded: messages below this go straight through"},
    {"RULES", "RANKS/TYPE[/SIZE]=off|exact|bounded,...", "", "preloaded: the mode by ranks, NCCL data type and message size"},
    {"NCCL_PATH", "path", "", "preloaded: the real libnccl.so.2, where it is not found"},
    {NULL, NULL, NULL, NULL},
};

/* Known, but not settings: what tools and launchers of this project pass to their own children; the file that Python loads. */
static const char *const internal_names[] = {"RANK", "SIZE", "LISTEN_FD", "LIB", NULL};

const struct xp_param_info *xp_params_table(void)
{
    return table;
}

/* ------------------------------------------------------------------------------------------------ parsing */

/* A plain decimal number: no blanks, signs, hexadecimal, nan or inf; the point is a point in every locale. */
static int parse_number(const char *text, double *out)
{
    locale_t c_locale;
    char *end;

    if ((!isdigit((unsigned char)text[0]) && text[0] != '.') || strpbrk(text, "xX"))
        return 0;
    c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (c_locale == (locale_t)0)
        return 0;
    errno = 0;
    *out = strtod_l(text, &end, c_locale);
    freelocale(c_locale);
    return errno == 0 && end != text && *end == '\0' && isfinite(*out);
}

static int parse_range(const char *text, double low, double high, double *out)
{
    double v;

    if (!parse_number(text, &v) || v < low || v > high)
        return 0;
    *out = v;
    return 1;
}

/* Index of text in a list of words separated by '|', or -1. */
static int parse_word(const char *text, const char *words)
{
    size_t len = strlen(text);
    int i = 0;

    for (const char *w = words; len > 0; w++, i++) {
        size_t n = strcspn(w, "|");
        if (n == len && memcmp(w, text, n) == 0)
            return i;
        w += n;
        if (*w == '\0')
            break;
    }
    return -1;
}

static int parse_text(const char *text, char *out, size_t size)
{
    if (strlen(text) >= size)
        return 0;
    for (const char *p = text; *p; p++)
        if (iscntrl((unsigned char)*p))
            return 0;
    memset(out, 0, size);
    memcpy(out, text, strlen(text));
    return 1;
}

static int parse_eps(const char *text, double *out)
{
    double v;

    if (!parse_number(text, &v) || !(v > 0 && v < 1))
        return 0;
    *out = v;
    return 1;
}

static int parse_mode(const char *text, xp_mode *mode, double *mode_eps)
{
    int i = parse_word(text, "raw|exact|bounded");

    if (i < 0 && strncmp(text, "bounded:", 8) == 0 && parse_eps(text + 8, mode_eps))
        i = 2;
    if (i < 0)
        return 0;
    *mode = i == 0 ? XP_MODE_RAW : i == 1 ? XP_MODE_EXACT : XP_MODE_BOUNDED;
    return 1;
}

static int parse_bytes(const char *text, size_t low, size_t *out)
{
    char *end;
    unsigned long long v;

    if (!isdigit((unsigned char)text[0]))
        return 0;
    errno = 0;
    v = strtoull(text, &end, 10);
    if (errno != 0 || v > 1ull << 30)
        return 0;
    if (*end == 'K' || *end == 'k')
        v <<= 10, end++;
    else if (*end == 'M' || *end == 'm')
        v <<= 20, end++;
    if (*end != '\0' || v < low || v > 1ull << 30)
        return 0;
    *out = (size_t)v;
    return 1;
}

static int parse_row(const char *text, char *out, size_t size)
{
    const char *colon = strchr(text, ':');
    char type[8];
    double dim;

    if (text[0] == '\0')
        return parse_text(text, out, size);
    if (!colon || (size_t)(colon - text) >= sizeof(type))
        return 0;
    memcpy(type, text, (size_t)(colon - text));
    type[colon - text] = '\0';
    if (parse_word(type, "bf16|f16|f32|byte") < 0 || strspn(colon + 1, "0123456789") != strlen(colon + 1) ||
        !parse_range(colon + 1, 1, 1 << 20, &dim))
        return 0;
    return parse_text(text, out, size);
}

/* host:port, the port 1 .. 65535; an IPv6 address stands in brackets. */
static int parse_root(const char *text, char *out, size_t size)
{
    const char *colon = strrchr(text, ':');
    double port;

    if (text[0] == '\0')
        return parse_text(text, out, size);
    if (!colon || colon == text || strspn(colon + 1, "0123456789") != strlen(colon + 1) ||
        !parse_range(colon + 1, 1, 65535, &port))
        return 0;
    return parse_text(text, out, size);
}

static int parse_secret(const char *text, char *out, size_t size)
{
    size_t len = strlen(text);

    return (len == 0 || len >= 16) && parse_text(text, out, size);
}

/* Writes one value into *p. *mode_eps is the EPS that a MODE carried, which outranks the setting EPS. */
static int parse_value(struct xp_params *p, const char *name, const char *text, double *mode_eps)
{
    static const char *const chosen[] = {"ALGO", "auto|flat|hier|leader", "ISA", "auto|c|avx2|avx512|avx512bf16", "TRANSPORT",
                                         "auto|shm|tcp|ucx", "GROUPS", "off|auto|complete|sparse"};
    char *chosen_out[] = {p->algo, p->isa, p->transport, p->groups};
    int i;

    for (i = 0; i < 4; i++)
        if (strcmp(name, chosen[2 * i]) == 0)
            return parse_word(text, chosen[2 * i + 1]) >= 0 && parse_text(text, chosen_out[i], sizeof(p->algo));
    if (strcmp(name, "MODE") == 0)
        return parse_mode(text, &p->mode, mode_eps);
    if (strcmp(name, "EPS") == 0)
        return parse_eps(text, &p->eps);
    if (strcmp(name, "EPS_REF") == 0)
        return p->eps_ref = (xp_eps_ref)(parse_word(text, "min|row") + 1), p->eps_ref != XP_EPS_REF_DEFAULT;
    if (strcmp(name, "CODEC") == 0)
        return text[0] != '\0' && parse_text(text, p->codec, sizeof(p->codec));
    if (strcmp(name, "RATE") == 0)
        return parse_range(text, 0, 1, &p->rate);
    if (strcmp(name, "ROW") == 0)
        return parse_row(text, p->row, sizeof(p->row));
    if (strcmp(name, "TIMEOUT") == 0)
        return parse_range(text, 1e-3, 1e9, &p->timeout);
    if (strcmp(name, "SECRET") == 0)
        return parse_secret(text, p->secret, sizeof(p->secret));
    if (strcmp(name, "ROOT") == 0)
        return parse_root(text, p->root, sizeof(p->root));
    if (strcmp(name, "NODE") == 0)
        return parse_text(text, p->node, sizeof(p->node));
    if (strcmp(name, "INTERFACE") == 0)
        return parse_text(text, p->interface_, sizeof(p->interface_));
    if (strcmp(name, "LOG") == 0)
        return p->log = parse_word(text, "none|error|warn|info|debug"), p->log >= 0;
    if (strcmp(name, "STATS") == 0)
        return p->stats = parse_word(text, "0|1"), p->stats >= 0;
    if (strcmp(name, "CHUNK") == 0)
        return parse_bytes(text, 4096, &p->chunk);
    if (strcmp(name, "MIN_SIZE") == 0)
        return parse_bytes(text, 1, &p->min_size);
    if (strcmp(name, "RULES") == 0)
        return parse_text(text, p->rules, sizeof(p->rules));
    if (strcmp(name, "NCCL_PATH") == 0)
        return parse_text(text, p->nccl_path, sizeof(p->nccl_path));
    if (strcmp(name, "HEARTBEAT") == 0)
        return parse_range(text, 0.01, 60, &p->heartbeat);
    return 0;
}

/* ------------------------------------------------------------------------------------------ unknown names */

static size_t min3(size_t a, size_t b, size_t c)
{
    size_t m = a < b ? a : b;

    return m < c ? m : c;
}

/* Levenshtein distance; both at most NAME_MAX_LEN characters. */
static size_t edit_distance(const char *a, const char *b)
{
    size_t row[NAME_MAX_LEN + 1];
    size_t nb = strlen(b);

    for (size_t j = 0; j <= nb; j++)
        row[j] = j;
    for (size_t i = 0; a[i]; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < nb; j++) {
            size_t above = row[j + 1];
            row[j + 1] = min3(above + 1, row[j] + 1, diagonal + (a[i] != b[j]));
            diagonal = above;
        }
    }
    return row[nb];
}

static const char *nearest_name(const char *name)
{
    const char *best = table[0].name;
    char cut[NAME_MAX_LEN + 1];
    size_t least = (size_t)-1;

    snprintf(cut, sizeof(cut), "%s", name);
    for (const struct xp_param_info *t = table; t->name; t++) {
        size_t d = edit_distance(cut, t->name);
        if (d < least) {
            least = d;
            best = t->name;
        }
    }
    return best;
}

static int known_name(const char *name)
{
    for (const struct xp_param_info *t = table; t->name; t++)
        if (strcmp(t->name, name) == 0)
            return 1;
    for (const char *const *n = internal_names; *n; n++)
        if (strcmp(*n, name) == 0)
            return 1;
    return 0;
}

static void warn_unknown(void (*warn)(void *user, const char *text), void *user)
{
    for (char **e = environ; e && *e; e++) {
        char name[NAME_MAX_LEN + 1], text[256];
        const char *start = *e + strlen(PREFIX);

        if (strncmp(*e, PREFIX, strlen(PREFIX)) != 0)
            continue;
        snprintf(name, sizeof(name), "%.*s", (int)strcspn(start, "="), start);
        if (known_name(name))
            continue;
        snprintf(text, sizeof(text), "%s%s is not a setting and has no effect; the nearest name is %s%s", PREFIX, name,
                 PREFIX, nearest_name(name));
        warn(user, text);
    }
}

/* ------------------------------------------------------------------------------------------------ reading */

static const char *from_environment(const char *name)
{
    char full[NAME_MAX_LEN + sizeof(PREFIX)];
    const char *v;

    snprintf(full, sizeof(full), "%s%s", PREFIX, name);
    v = getenv(full);
    return v && v[0] ? v : NULL; /* an empty variable is an unset one */
}

xp_status xp_params_read(struct xp_params *p, void (*warn)(void *user, const char *text), void *user, char *err,
                         size_t err_size)
{
    struct xp_params fresh;
    double mode_eps = 0;

    memset(&fresh, 0, sizeof(fresh));
    for (const struct xp_param_info *t = table; t->name; t++) {
        const char *text = from_environment(t->name);

        if (parse_value(&fresh, t->name, text ? text : t->def, &mode_eps))
            continue;
        snprintf(err, err_size, "%s%s is \"%.64s\", which is not %s", PREFIX, t->name,
                 strcmp(t->name, "SECRET") == 0 ? "(hidden)" : text ? text : t->def, t->type);
        return XP_ERR_INVALID_ARG;
    }
    if (mode_eps > 0)
        fresh.eps = mode_eps;
    if (warn)
        warn_unknown(warn, user);
    *p = fresh;
    return XP_OK;
}

void xp_params_show(const struct xp_params *p, const char *name, char *value, size_t size, const char **source)
{
    static const char *const modes[] = {"", "raw", "exact", "bounded"};
    static const char *const levels[] = {"none", "error", "warn", "info", "debug"};
    const struct {
        const char *name, *text;
    } texts[] = {{"MODE", modes[p->mode]}, {"EPS_REF", p->eps_ref == XP_EPS_REF_ROW ? "row" : "min"},
                 {"CODEC", p->codec}, {"ALGO", p->algo}, {"ISA", p->isa}, {"TRANSPORT", p->transport}, {"ROW", p->row},
                 {"SECRET", p->secret[0] ? "(hidden)" : ""}, {"ROOT", p->root}, {"NODE", p->node},
                 {"INTERFACE", p->interface_}, {"LOG", levels[p->log]}, {"STATS", p->stats ? "1" : "0"},
                 {"GROUPS", p->groups}, {"RULES", p->rules}, {"NCCL_PATH", p->nccl_path}};
    const struct {
        const char *name;
        double number;
    } numbers[] = {{"EPS", p->eps}, {"RATE", p->rate}, {"TIMEOUT", p->timeout}, {"CHUNK", (double)p->chunk},
                   {"HEARTBEAT", p->heartbeat}, {"MIN_SIZE", (double)p->min_size}};

    *source = from_environment(name) ? "environment" : "default";
    if (size > 0)
        value[0] = '\0';
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        if (strcmp(texts[i].name, name) == 0)
            snprintf(value, size, "%s", texts[i].text);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        if (strcmp(numbers[i].name, name) == 0)
            snprintf(value, size, "%.10g", numbers[i].number);
}
