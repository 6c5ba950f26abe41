// One direction of a simple, GRU or LSTM layer on a CPU, forward and backward, for XLA's foreign function interface.
//
// A tile is as many of the batch's rows as a few vectors hold, one a lane; no tile knows of another, so that each runs
// over all steps by itself, its state in the cache. A step is one product, of the step's input and the state before
// with both kernels, whose sums stay in registers until the cell's equations have used them.
//
// Arrays are [step, unit, batch]. The sums of one row are formed in the same order whatever tile it lies in.
// Equations and names are those of recurrence.py, gates in its order.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <string_view>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "xla/ffi/api/c_api.h"

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
constexpr int MOST_VECTORS = 4;  // of a tile
constexpr int SUMS = 16;         // vectors that a product keeps in registers

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int32_t Mask __attribute__((vector_size(4 * LANES)));
typedef float Packed __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

inline Vec load(const float* from) { return *reinterpret_cast<const Packed*>(from); }
inline void store(float* to, Vec value) { *reinterpret_cast<Packed*>(to) = value; }
inline Vec all(float value) { return value - Vec{}; }

// exp(x) - 1, to two units in the last place; x within +-87. 2^k (exp(r) - 1) + (2^k - 1) with |r| <= ln 2 / 2.
inline Vec expm1(Vec x) {
  const Vec shift = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  Vec moved = x * 1.44269504f + shift;
  Vec k = moved - shift;
  Vec r = x - k * 0.693359375f;
  r = r + k * 2.12194440e-4f;
  Vec p = r * 1.9841270e-4f + 1.3888889e-3f;
  p = p * r + 8.3333333e-3f;
  p = p * r + 4.1666667e-2f;
  p = p * r + 1.6666667e-1f;
  p = p * r + 0.5f;
  p = p * r * r + r;
  Mask exponent = (__builtin_convertvector(k, Mask) + 127) << 23;
  Vec scale;
  std::memcpy(&scale, &exponent, sizeof scale);
  return scale * p + (scale - 1.0f);
}

inline Vec within(Vec x, float most) {
  x = x > most ? all(most) : x;
  return x < -most ? all(-most) : x;  // not a number stays none
}

// 1 / x: an estimate and one step of Newton's, where the processor has one that is good enough; dividing takes longer
inline Vec inverse(Vec x) {
#if defined(__AVX512F__)
  Vec estimate = reinterpret_cast<Vec>(_mm512_maskz_rcp14_ps(0xffff, reinterpret_cast<__m512>(x)));
  return estimate * (2.0f - x * estimate);
#else
  return 1.0f / x;
#endif
}

inline Vec sigmoid(Vec x) { return inverse(expm1(within(-x, 40.0f)) + 2.0f); }

inline Vec tanh(Vec x) {
  Vec e = expm1(within(2.0f * x, 40.0f));
  return e * inverse(e + 2.0f);
}

// Turns LANES rows of LANES values, `from` apart, to columns: whatever lies where bits of row and column differ changes
// place, bit by bit.
template <int BIT>
inline void swap_bit(Vec (&rows)[LANES]) {
  Mask low, high;
  for (int lane = 0; lane < LANES; ++lane) {
    low[lane] = lane & BIT ? LANES + (lane ^ BIT) : lane;
    high[lane] = lane & BIT ? LANES + lane : lane ^ BIT;
  }
#pragma GCC unroll 16
  for (int row = 0; row < LANES; ++row)
    if (!(row & BIT)) {
      const Vec one = rows[row], other = rows[row | BIT];
      rows[row] = __builtin_shuffle(one, other, low);
      rows[row | BIT] = __builtin_shuffle(one, other, high);
    }
  if constexpr (BIT > 1) swap_bit<BIT / 2>(rows);
}

inline void transpose(const float* from, int64_t apart, float* to, int64_t to_apart) {
  Vec rows[LANES];
#pragma GCC unroll 16
  for (int row = 0; row < LANES; ++row) rows[row] = load(from + row * apart);
  swap_bit<LANES / 2>(rows);
#pragma GCC unroll 16
  for (int row = 0; row < LANES; ++row) store(to + row * to_apart, rows[row]);
}

enum Cell { SIMPLE, GRU, LSTM };
constexpr int GATES[] = {1, 3, 4};
// Arrays of a unit that the forward pass saves beside its state, and slopes that the backward pass makes: a GRU's
// candidate has those of its recurrent part and of its input apart.
constexpr int SAVED[] = {0, 4, 5};
constexpr int SLOPES[] = {1, 4, 4};

struct Layer {
  int64_t steps, inputs, units, batch;
  bool reverse;
  const float *input, *kernel, *bias, *recurrent_bias, *kept;  // kernel [inputs + units, gates * units]
  const int32_t* lengths;
  float *states, *last, *saved;                    // saved: [step, SAVED * units, batch], or null
  const float *of_states, *of_last;                // backward
  float *of_kernel, *of_bias, *of_recurrent_bias, *of_input;
  std::vector<float> packed, packed_input;         // kernels as the products read them
  mutable std::vector<std::vector<float>> sums;    // a tile's share of the kernel's gradient and the biases'
  int64_t at(int64_t place) const { return reverse ? steps - 1 - place : place; }
};

inline int64_t up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

// A tile's lanes of the rows of [row, batch] arrays. The last tile may not be full.
template <int V>
struct Tile {
  static constexpr int WIDTH = V * LANES;
  int64_t first, lanes, batch;
  bool full() const { return lanes == WIDTH; }
  Vec get(const float* array, int64_t row, int v) const {
    const float* from = array + row * batch + first + v * LANES;
    if (full()) return load(from);
    Vec value{};
    int64_t count = std::min<int64_t>(LANES, lanes - v * LANES);
    if (count > 0) std::memcpy(&value, from, 4 * count);
    return value;
  }
  void put(float* array, int64_t row, int v, Vec value) const {
    float* to = array + row * batch + first + v * LANES;
    if (full()) return store(to, value);
    int64_t count = std::min<int64_t>(LANES, lanes - v * LANES);
    if (count > 0) std::memcpy(to, &value, 4 * count);
  }
  void clear(float* array, int64_t row) const { std::memset(array + row * batch + first, 0, 4 * lanes); }
};

template <int V>
struct Lengths {
  Mask each[V];
  int32_t least, most;
  Lengths(const int32_t* lengths, const Tile<V>& tile) : least(INT32_MAX), most(0) {
    int32_t values[V * LANES] = {};
    for (int64_t lane = 0; lane < tile.lanes; ++lane) {
      values[lane] = lengths[tile.first + lane];
      least = std::min(least, values[lane]);
      most = std::max(most, values[lane]);
    }
    std::memcpy(each, values, sizeof values);
  }
};

// sums[s][v] += weights[k][s] * rows[k][v], for `count` k.
template <int S, int V>
inline void multiply(Vec (&sums)[S][V], const float* weights, int64_t apart, const float* rows, int64_t stride,
                     int64_t count) {
  for (int64_t k = 0; k < count; ++k, weights += apart, rows += stride) {
    Vec row[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) row[v] = load(rows + v * LANES);
#pragma GCC unroll 16
    for (int s = 0; s < S; ++s) {
      Vec weight = all(weights[s]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sums[s][v] += weight * row[v];
    }
  }
}

template <Cell C, int V>
constexpr int units_at_once() { return std::max(1, SUMS / V / (C == SIMPLE ? 2 : 4)); }

// [block of units][k][gate, unit within]
template <Cell C, int R>
void pack_forward(Layer& layer) {
  constexpr int G = GATES[C];
  int64_t units = layer.units, depth = layer.inputs + units;
  layer.packed.assign(up(units, R) * G * depth, 0.0f);
  float* to = layer.packed.data();
  for (int64_t u = 0; u < units; u += R)
    for (int64_t k = 0; k < depth; ++k)
      for (int g = 0; g < G; ++g)
        for (int64_t r = 0; r < R; ++r, ++to)
          if (u + r < units) *to = layer.kernel[k * G * units + g * units + u + r];
}

template <Cell C, int V>
void forward(const Layer& layer, int64_t first) {
  constexpr int G = GATES[C], R = units_at_once<C, V>(), W = V * LANES;
  const int64_t U = layer.units, I = layer.inputs, padded = up(U, R);
  Tile<V> tile{first, std::min<int64_t>(W, layer.batch - first), layer.batch};
  Lengths<V> lengths(layer.lengths, tile);
  // hidden: this state and the next; entered: the same times `kept`
  std::vector<float> scratch((4 * padded + I) * W + padded * (C == LSTM) * W, 0.0f);
  float* hidden[] = {scratch.data(), scratch.data() + padded * W};
  float* dropped[] = {hidden[1] + padded * W, hidden[1] + 2 * padded * W};
  float *given = dropped[1] + padded * W, *memory = given + I * W;

  for (int64_t place = 0; place < layer.steps; ++place) {
    const int64_t t = layer.at(place);
    if (t >= lengths.most) {
      for (int64_t u = 0; u < U; ++u) tile.clear(layer.states, t * U + u);
      if (layer.saved)
        for (int64_t row = 0; row < SAVED[C] * U; ++row) tile.clear(layer.saved, t * SAVED[C] * U + row);
      continue;
    }
    const bool whole = t < lengths.least;
    const float* x = layer.input + t * I * layer.batch + first;
    int64_t stride = layer.batch;
    if (!tile.full()) {
      for (int64_t i = 0; i < I; ++i) std::memcpy(given + i * W, x + i * layer.batch, 4 * tile.lanes);
      x = given, stride = W;
    }
    const float *before = hidden[0], *entered = layer.kept ? dropped[0] : hidden[0];
    float* after = hidden[1];
    for (int64_t u = 0; u < U; u += R) {
      const float* weights = layer.packed.data() + u * G * (I + U);
      Vec sums[G * R][V], apart[R][V];  // apart: the GRU's candidate's recurrent part
      for (int s = 0; s < G * R; ++s)
        for (int v = 0; v < V; ++v) {
          const int64_t unit = u + s % R;
          sums[s][v] = all(unit < U ? layer.bias[s / R * U + unit] : 0.0f);
        }
      multiply<G * R, V>(sums, weights, G * R, x, stride, I);
      if constexpr (C == GRU) {
        Vec recurred[G * R][V];
        for (int s = 0; s < G * R; ++s)
          for (int v = 0; v < V; ++v) {
            const int64_t unit = u + s % R;
            recurred[s][v] = s < 2 * R ? sums[s][v] : all(unit < U ? layer.recurrent_bias[unit] : 0.0f);
          }
        multiply<G * R, V>(recurred, weights + I * G * R, G * R, entered, W, U);
        for (int s = 0; s < 2 * R; ++s)
          for (int v = 0; v < V; ++v) sums[s][v] = recurred[s][v];
        for (int r = 0; r < R; ++r)
          for (int v = 0; v < V; ++v) apart[r][v] = recurred[2 * R + r][v];
      } else {
        multiply<G * R, V>(sums, weights + I * G * R, G * R, entered, W, U);
      }
      for (int r = 0; r < R && u + r < U; ++r) {
        const int64_t unit = u + r;
        for (int v = 0; v < V; ++v) {
          const int64_t at = unit * W + v * LANES;
          const Mask valid = lengths.each[v] > static_cast<int32_t>(t);
          auto shown = [&](Vec value) { return whole ? value : valid ? value : Vec{}; };
          auto save = [&](int what, Vec value) {
            tile.put(layer.saved, (t * SAVED[C] + what) * U + unit, v, shown(value));
          };
          const Vec old = load(before + at);
          Vec now;
          if constexpr (C == SIMPLE) {
            now = tanh(sums[r][v]);
          } else if constexpr (C == GRU) {
            const Vec reset = sigmoid(sums[r][v]), update = sigmoid(sums[R + r][v]);
            const Vec candidate = tanh(sums[2 * R + r][v] + reset * apart[r][v]);
            now = (1.0f - update) * candidate + update * old;
            if (layer.saved) save(0, reset), save(1, update), save(2, candidate), save(3, apart[r][v]);
          } else {
            const Vec entry = sigmoid(sums[r][v]), forget = sigmoid(sums[R + r][v]);
            const Vec content = tanh(sums[2 * R + r][v]), output = sigmoid(sums[3 * R + r][v]);
            const Vec held = load(memory + at), kept = forget * held + entry * content;
            now = output * tanh(kept);
            store(memory + at, whole ? kept : valid ? kept : held);
            if (layer.saved) save(0, entry), save(1, forget), save(2, content), save(3, output), save(4, kept);
          }
          tile.put(layer.states, t * U + unit, v, shown(now));
          now = whole ? now : valid ? now : old;
          store(after + at, now);
          if (layer.kept) store(dropped[1] + at, now * tile.get(layer.kept, unit, v));
        }
      }
    }
    std::swap(hidden[0], hidden[1]);
    std::swap(dropped[0], dropped[1]);
  }
  for (int64_t u = 0; u < U; ++u)
    for (int v = 0; v < V; ++v) tile.put(layer.last, u, v, load(hidden[0] + u * W + v * LANES));
}

// [block of rows of the kernel][gate unit][row within], of the input's rows and of the state's
template <Cell C, int R>
void pack_backward(Layer& layer) {
  const int64_t wide = GATES[C] * layer.units;
  auto pack = [&](std::vector<float>& packed, const float* kernel, int64_t rows) {
    packed.assign(up(rows, R) * wide, 0.0f);
    float* to = packed.data();
    for (int64_t row = 0; row < rows; row += R)
      for (int64_t k = 0; k < wide; ++k)
        for (int64_t r = 0; r < R; ++r, ++to)
          if (row + r < rows) *to = kernel[(row + r) * wide + k];
  };
  pack(layer.packed_input, layer.kernel, layer.inputs);
  pack(layer.packed, layer.kernel + layer.inputs * wide, layer.units);
}

// sums[row][column] += a sum over lanes of rows[row][lane] * columns[lane][column], for ROWS rows and N vectors
// of columns.
template <int ROWS, int N>
inline void outer(float* sums, int64_t apart, const float* rows, const float* columns, int64_t lanes) {
  Vec held[ROWS][N];
#pragma GCC unroll 8
  for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) held[row][n] = load(sums + row * apart + n * LANES);
  for (int64_t lane = 0; lane < lanes; ++lane, columns += apart) {
    Vec column[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) column[n] = load(columns + n * LANES);
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; ++row) {
      const Vec value = all(rows[row * lanes + lane]);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) held[row][n] += value * column[n];
    }
  }
#pragma GCC unroll 8
  for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) store(sums + row * apart + n * LANES, held[row][n]);
}

template <int ROWS>
inline void outer_rows(float* sums, int64_t apart, const float* rows, const float* columns, int64_t lanes,
                       int64_t wide) {
  int64_t n = 0;
  for (; n + 4 * LANES <= wide; n += 4 * LANES) outer<ROWS, 4>(sums + n, apart, rows, columns + n, lanes);
  for (; n + 2 * LANES <= wide; n += 2 * LANES) outer<ROWS, 2>(sums + n, apart, rows, columns + n, lanes);
  for (; n < wide; n += LANES) outer<ROWS, 1>(sums + n, apart, rows, columns + n, lanes);
}

inline void add_outer(float* sums, int64_t apart, const float* rows, int64_t count, const float* columns, int64_t lanes,
                      int64_t wide) {
  for (; count >= 6; count -= 6, rows += 6 * lanes, sums += 6 * apart)
    outer_rows<6>(sums, apart, rows, columns, lanes, wide);
  for (; count >= 2; count -= 2, rows += 2 * lanes, sums += 2 * apart)
    outer_rows<2>(sums, apart, rows, columns, lanes, wide);
  if (count) outer_rows<1>(sums, apart, rows, columns, lanes, wide);
}

template <Cell C, int V>
void backward(const Layer& layer, int64_t first) {
  constexpr int G = GATES[C], S = SLOPES[C], R = SUMS / V, W = V * LANES;
  const int64_t U = layer.units, I = layer.inputs, wide = G * U;
  Tile<V> tile{first, std::min<int64_t>(W, layer.batch - first), layer.batch};
  Lengths<V> lengths(layer.lengths, tile);
  // entered: the input and a row of ones, then the state before and a row of ones; turned: the slopes, [lane, unit]
  const int64_t columns = up(S * U, LANES), rows = I + U + 2;
  std::vector<float> scratch(2 * U * W + columns * W + rows * W + W * columns, 0.0f);
  float *change = scratch.data(), *of_memory = change + U * W, *slopes = of_memory + U * W;
  float *entered = slopes + columns * W, *before = entered + (I + 1) * W, *turned = entered + rows * W;
  std::fill(entered + I * W, before, 1.0f);
  std::fill(before + U * W, turned, 1.0f);
  std::vector<float>& sums_of_kernel = layer.sums[first / W];
  sums_of_kernel.assign(rows * columns, 0.0f);
  for (int64_t u = 0; u < U; ++u)
    for (int v = 0; v < V; ++v) store(change + u * W + v * LANES, tile.get(layer.of_last, u, v));

  for (int64_t place = layer.steps - 1; place >= 0; --place) {
    const int64_t t = layer.at(place), earlier = place ? layer.at(place - 1) : -1;
    if (t >= lengths.most) {
      for (int64_t i = 0; i < I; ++i) tile.clear(layer.of_input, t * I + i);
      continue;
    }
    const bool whole = t < lengths.least;
    for (int64_t u = 0; u < U; ++u)
      for (int v = 0; v < V; ++v) {
        const int64_t at = u * W + v * LANES;
        const Mask valid = lengths.each[v] > static_cast<int32_t>(t);
        auto shown = [&](Vec value) { return whole ? value : valid ? value : Vec{}; };
        auto saved = [&](int what) { return tile.get(layer.saved, (t * SAVED[C] + what) * U + u, v); };
        auto slope = [&](int what, Vec value) { store(slopes + what * U * W + at, shown(value)); };
        const Vec previous = earlier < 0 ? Vec{} : tile.get(layer.states, earlier * U + u, v);
        store(before + at, layer.kept ? previous * tile.get(layer.kept, u, v) : previous);
        const Vec all_change = load(change + at), of_state = all_change + shown(tile.get(layer.of_states, t * U + u, v));
        Vec through{};  // what reaches the state before, but for the kernel's part
        if constexpr (C == SIMPLE) {
          const Vec now = tile.get(layer.states, t * U + u, v);
          slope(0, of_state * (1.0f - now * now));
        } else if constexpr (C == GRU) {
          const Vec reset = saved(0), update = saved(1), candidate = saved(2), recurred = saved(3);
          const Vec of_candidate = of_state * (1.0f - update) * (1.0f - candidate * candidate);
          slope(0, of_candidate * recurred * reset * (1.0f - reset));
          slope(1, of_state * (previous - candidate) * update * (1.0f - update));
          slope(2, of_candidate * reset);
          slope(3, of_candidate);
          through = of_state * update;
        } else {
          const Vec entry = saved(0), forget = saved(1), content = saved(2), output = saved(3), told = tanh(saved(4));
          const Vec held = earlier < 0 ? Vec{} : tile.get(layer.saved, (earlier * SAVED[C] + 4) * U + u, v);
          const Vec old = load(of_memory + at), of_kept = old + of_state * output * (1.0f - told * told);
          slope(0, of_kept * content * entry * (1.0f - entry));
          slope(1, of_kept * held * forget * (1.0f - forget));
          slope(2, of_kept * entry * (1.0f - content * content));
          slope(3, of_state * told * output * (1.0f - output));
          const Vec passed = of_kept * forget;
          store(of_memory + at, whole ? passed : valid ? passed : old);
        }
        // a row that is not there yet keeps its change: nothing comes through the kernel, for its slopes are 0
        store(change + at, whole ? through : valid ? through : all_change);
      }
    for (int64_t row = 0; row < U; row += R) {
      Vec sums[R][V] = {};
      multiply<R, V>(sums, layer.packed.data() + row * wide, R, slopes, W, wide);
      for (int r = 0; r < R && row + r < U; ++r)
        for (int v = 0; v < V; ++v) {
          Vec back = sums[r][v];
          if (layer.kept) back *= tile.get(layer.kept, row + r, v);
          float* to = change + (row + r) * W + v * LANES;
          store(to, load(to) + back);
        }
    }
    for (int64_t row = 0; row < I; row += R) {
      Vec sums[R][V] = {};
      const float* weights = layer.packed_input.data() + row * wide;
      if constexpr (C == GRU) {
        multiply<R, V>(sums, weights, R, slopes, W, 2 * U);
        multiply<R, V>(sums, weights + 2 * U * R, R, slopes + 3 * U * W, W, U);
      } else {
        multiply<R, V>(sums, weights, R, slopes, W, wide);
      }
      for (int r = 0; r < R && row + r < I; ++r)
        for (int v = 0; v < V; ++v) tile.put(layer.of_input, t * I + row + r, v, sums[r][v]);
    }
    for (int64_t i = 0; i < I; ++i)
      for (int v = 0; v < V; ++v) store(entered + i * W + v * LANES, tile.get(layer.input, t * I + i, v));
    for (int64_t column = 0; column < columns; column += LANES)
      for (int64_t lane = 0; lane < W; lane += LANES)
        transpose(slopes + column * W + lane, W, turned + lane * columns + column, columns);
    add_outer(sums_of_kernel.data(), columns, entered, I + 1, turned, W, columns);
    add_outer(sums_of_kernel.data() + (I + 1) * columns, columns, before, U + 1, turned, W, up(wide, LANES));
  }
}

// Adds the tiles' shares up, in their order.
template <Cell C>
void gather(const Layer& layer) {
  const int64_t U = layer.units, I = layer.inputs, wide = GATES[C] * U, columns = up(SLOPES[C] * U, LANES);
  auto total = [&](int64_t row, int64_t column) {
    float sum = 0;
    for (const auto& each : layer.sums) sum += each[row * columns + column];
    return sum;
  };
  for (int64_t k = 0; k < wide; ++k) {
    // the reset gate stands between the candidate's recurrent product and its input
    const int64_t column = C == GRU && k >= 2 * U ? k + U : k;
    for (int64_t i = 0; i < I; ++i) layer.of_kernel[i * wide + k] = total(i, column);
    layer.of_bias[k] = total(I, column);
    for (int64_t u = 0; u < U; ++u) layer.of_kernel[(I + u) * wide + k] = total(I + 1 + u, k);
    if (C == GRU && k >= 2 * U) layer.of_recurrent_bias[k - 2 * U] = total(I + 1 + U, k);
  }
}

// Work shared out to XLA's threads: whoever is free takes the next piece. The caller works too, and needs nobody.
struct Shared {
  void (*work)(const Layer&, int64_t);
  const Layer* layer;
  int64_t width, pieces;
  std::atomic<int64_t> next{0}, done{0};
  std::atomic<bool> failed{false};
  void run() {
    for (int64_t piece; (piece = next.fetch_add(1)) < pieces; done.fetch_add(1)) try {
        work(*layer, piece * width);
      } catch (const std::bad_alloc&) {
        failed = true;
      }
  }
};

void share_out(XLA_FFI_CallFrame* frame, const Layer& layer, int64_t threads, int64_t width,
               void (*work)(const Layer&, int64_t)) {
  auto shared = std::make_shared<Shared>();
  shared->work = work, shared->layer = &layer, shared->width = width;
  shared->pieces = (layer.batch + width - 1) / width;
  for (int64_t helper = 1; helper < std::min(threads, shared->pieces); ++helper) {
    // no exception once helpers have begun: they use what lies on this stack
    auto* mine = new (std::nothrow) std::shared_ptr<Shared>(shared);
    if (!mine) break;
    XLA_FFI_ThreadPool_Schedule_Args args{};
    args.struct_size = XLA_FFI_ThreadPool_Schedule_Args_STRUCT_SIZE;
    args.ctx = frame->ctx;
    args.task = [](void* data) {
      auto* held = static_cast<std::shared_ptr<Shared>*>(data);
      (*held)->run();
      delete held;
    };
    args.data = mine;
    if (XLA_FFI_Error* error = frame->api->XLA_FFI_ThreadPool_Schedule(&args)) {
      XLA_FFI_Error_Destroy_Args gone{XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, nullptr, error};
      frame->api->XLA_FFI_Error_Destroy(&gone);
      delete mine;
      break;
    }
  }
  shared->run();
  while (shared->done.load() < shared->pieces) std::this_thread::yield();
  if (shared->failed) throw std::bad_alloc();
}

template <Cell C, int V>
void pass(XLA_FFI_CallFrame* frame, Layer& layer, int64_t threads, bool back) {
  if (back) {
    pack_backward<C, SUMS / V>(layer);
    layer.sums.resize((layer.batch + V * LANES - 1) / (V * LANES));
    share_out(frame, layer, threads, V * LANES, backward<C, V>);
    gather<C>(layer);
  } else {
    pack_forward<C, units_at_once<C, V>()>(layer);
    share_out(frame, layer, threads, V * LANES, forward<C, V>);
  }
}

template <Cell C>
void run(XLA_FFI_CallFrame* frame, Layer& layer, int64_t threads, bool back) {
  const int64_t vectors = (layer.batch + threads * LANES - 1) / (threads * LANES);
  if (vectors > 2) return pass<C, MOST_VECTORS>(frame, layer, threads, back);
  if (vectors > 1) return pass<C, 2>(frame, layer, threads, back);
  pass<C, 1>(frame, layer, threads, back);
}

XLA_FFI_Error* refuse(XLA_FFI_CallFrame* frame, XLA_FFI_Error_Code code, const char* message) {
  XLA_FFI_Error_Create_Args args{XLA_FFI_Error_Create_Args_STRUCT_SIZE, nullptr, message, code};
  return frame->api->XLA_FFI_Error_Create(&args);
}

int64_t attribute(const XLA_FFI_CallFrame* frame, const char* name) {
  for (int64_t at = 0; at < frame->attrs.size; ++at) {
    const XLA_FFI_ByteSpan* span = frame->attrs.names[at];
    if (std::string_view(span->ptr, span->len) == name)
      return *static_cast<int64_t*>(static_cast<XLA_FFI_Scalar*>(frame->attrs.attrs[at])->value);
  }
  return 0;
}

// XLA asks a handler for its version before it calls it.
bool told_version(XLA_FFI_CallFrame* frame) {
  for (auto* extension = frame->extension_start; extension; extension = extension->next)
    if (extension->type == XLA_FFI_Extension_Metadata) {
      auto* metadata = reinterpret_cast<XLA_FFI_Metadata_Extension*>(extension)->metadata;
      metadata->api_version.major_version = XLA_FFI_API_MAJOR;
      metadata->api_version.minor_version = XLA_FFI_API_MINOR;
      metadata->traits = 0;
      return true;
    }
  return false;
}

XLA_FFI_Error* call(XLA_FFI_CallFrame* frame, bool back) {
  if (told_version(frame)) return nullptr;
  auto argument = [&](int64_t at) { return static_cast<XLA_FFI_Buffer*>(frame->args.args[at]); };
  auto read = [&](int64_t at) { return static_cast<const float*>(argument(at)->data); };
  auto result = [&](int64_t at) {
    return static_cast<float*>(static_cast<XLA_FFI_Buffer*>(frame->rets.rets[at])->data);
  };
  Layer layer{};
  const int64_t* shape = argument(1)->dims;  // [batch, step, feature], the batch innermost in memory
  layer.batch = shape[0], layer.steps = shape[1], layer.inputs = shape[2];
  const int64_t cell = attribute(frame, "cell"), threads = std::max<int64_t>(1, attribute(frame, "threads"));
  layer.reverse = attribute(frame, "reverse"), layer.units = attribute(frame, "units");
  if (argument(1)->dtype != XLA_FFI_DataType_F32)
    return refuse(frame, XLA_FFI_Error_Code_INVALID_ARGUMENT, "the recurrent kernel takes float32 alone");
  layer.kernel = read(0), layer.input = read(1), layer.lengths = static_cast<const int32_t*>(argument(2)->data);
  layer.kept = attribute(frame, "kept") ? read(3) : nullptr;
  if (back) {
    layer.states = const_cast<float*>(read(4)), layer.saved = const_cast<float*>(read(5));
    layer.of_states = read(6), layer.of_last = read(7);
    layer.of_input = result(0), layer.of_kernel = result(1), layer.of_bias = result(2);
    layer.of_recurrent_bias = result(3);
  } else {
    layer.bias = read(4), layer.recurrent_bias = read(5);
    layer.states = result(0), layer.last = result(1), layer.saved = frame->rets.size > 2 ? result(2) : nullptr;
  }
  try {
    if (cell == SIMPLE) run<SIMPLE>(frame, layer, threads, back);
    if (cell == GRU) run<GRU>(frame, layer, threads, back);
    if (cell == LSTM) run<LSTM>(frame, layer, threads, back);
  } catch (const std::bad_alloc&) {
    return refuse(frame, XLA_FFI_Error_Code_RESOURCE_EXHAUSTED, "no memory left for the recurrent kernel");
  }
  return nullptr;
}

}  // namespace

extern "C" XLA_FFI_Error* jaxrnn_forward(XLA_FFI_CallFrame* frame) { return call(frame, false); }
extern "C" XLA_FFI_Error* jaxrnn_backward(XLA_FFI_CallFrame* frame) { return call(frame, true); }
