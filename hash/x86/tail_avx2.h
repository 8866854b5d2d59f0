/*
 * tail_avx2.h - the last block of a row where it is not whole, with AVX2; the variants with AVX-512 use it, too
 *
 * As the functions of like names in qblock.h, of which those for C give the same bits. The integers have an order of their own: what
 * rotate writes can be read by code and forecast here, and by no others.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HASH_X86_TAIL_AVX2_H
#define XP_HASH_X86_TAIL_AVX2_H

#include "hash/qblock.h"

void xp_qtail_rotate_avx2(const uint32_t *signs, const float *x, size_t n, int16_t *h, struct xp_qstats *s);
void xp_qtail_code_avx2(enum xp_qformat f, const struct xp_qstats *s, const int16_t *h, size_t n, uint8_t *step, uint8_t *codes);
float xp_qtail_forecast_avx2(enum xp_qformat f, const struct xp_qstats *s, const int16_t *h, size_t n);

/* The same where the step is known; the block is not zeros. values: room for XP_QBLOCK, the first n become what the codes mean. */
void xp_qtail_code_at_avx2(enum xp_qformat f, const struct xp_qstep *step, const uint32_t *signs, const int16_t *h, size_t n, uint8_t *codes,
                           float *values);
float xp_qtail_forecast_at_avx2(enum xp_qformat f, const struct xp_qstep *step, const int16_t *h, size_t n);

/* Of any format. */
void xp_qtail_encode_avx2(enum xp_qformat f, const uint32_t *signs, const float *x, size_t n, uint8_t *step, uint8_t *codes);
void xp_qtail_decode_avx2(enum xp_qformat f, const uint32_t *signs, const uint8_t *step, const uint8_t *codes, size_t n, float *out);

#endif
