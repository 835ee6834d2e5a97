// Convolutions in float32 for one machine: compiled where they run, for the vectors that its CPU has.
//
// Maps are (images, height, width, channels). Weights come in panels: as many output channels as two vectors hold, one
// panel after the other, the last one filled up with zeros; in a panel a row for each value that is summed over.

#include <algorithm>

#if defined(GRAFT_LANES)
constexpr int kLanes = GRAFT_LANES;
#elif defined(__AVX512F__)
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif
constexpr int kVectors = 2, kPanel = kLanes * kVectors;
// Rows of a product that are summed at a time: with two vectors each they fill 12 of 16 registers, or 24 of 32.
constexpr int kRows = kLanes == 16 ? 12 : 6;
// What is read again for each panel, and written beside what other panels write, in values: half of a second level of the
// cache.
constexpr long kKept = 64 * 1024;
// The same for what lies between the three steps of Winograd's way, in values; of fewer tiles, all weights would be
// read again too often.
constexpr long kBetween = 128 * 1024;
constexpr long kFewest = 18;
// Values from one of the 36 planes to the next are no power of two apart, or all would fall into the same lines of the cache.
constexpr long kApart = 16;

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float)), may_alias));

static inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
static inline void store(float* to, Vector values) { *reinterpret_cast<Vector*>(to) = values; }

static long blocks(long count, long size) { return (count + size - 1) / size; }
static long padded(long count, long size) { return blocks(count, size) * size; }

// What becomes of sums before they are written. (Handed on by value: what is written might lie in what a reference
// refers to, as far as the compiler knows.)
struct Finish {
  const float* bias;   // one value for each channel
  const float* added;  // maps of the same shape; null: nothing
  float low, high;     // what values are limited to

  // What `write` is going to need, while sums are still made of other values: rows lie too far apart for a CPU to see
  // by itself what comes next.
  inline void expect(int count, const float* to, long place, long apart) const {
    for (int r = 0; r < count; ++r, place += apart) {
      __builtin_prefetch(to + place, 1);
      if (added) __builtin_prefetch(added + place);
    }
  }

  // R vectors, to places that are `apart` from each other.
  template <int R>
  inline void write(const Vector* values, int step, long channel, float* to, long place, long apart) const {
    const Vector shift = load(bias + channel), least = Vector{} + low, most = Vector{} + high;
    for (int r = 0; r < R; ++r, place += apart) {
      Vector value = values[r * step] + shift;
      if (added) value += load(added + place);
      // In this order a value that is no number stays so.
      value = value < least ? least : value;
      store(to + place, value > most ? most : value);
    }
  }

  inline void write_one(float value, long channel, float* to, long place) const {
    value += bias[channel];
    if (added) value += added[place];
    value = value < low ? low : value;
    to[place] = value > high ? high : value;
  }
};

struct AsItIs {
  inline void expect(int, const float*, long, long) const {}

  template <int R>
  inline void write(const Vector* values, int step, long, float* to, long place, long apart) const {
    for (int r = 0; r < R; ++r) store(to + place + r * apart, values[r * step]);
  }

  inline void write_one(float value, long, float* to, long place) const { to[place] = value; }
};

// R rows by one panel: sums over `taps` pieces of `depth` values that lie `step` apart.
template <int R>
static inline void sum(const float* const* rows, long taps, long step, long depth, const float* panel,
                       Vector (&sums)[R][kVectors]) {
  for (long tap = 0; tap < taps; ++tap) {
    const float* at[R];
    for (int r = 0; r < R; ++r) at[r] = rows[r] + tap * step;
    for (long d = 0; d < depth; ++d, panel += kPanel) {
      Vector right[kVectors];
      for (int v = 0; v < kVectors; ++v) right[v] = load(panel + v * kLanes);
      for (int r = 0; r < R; ++r)
        for (int v = 0; v < kVectors; ++v) sums[r][v] += at[r][d] * right[v];
    }
  }
}

// The same for `count` rows, R at the most, which are written as rows of `channels` values from `channel` on.
template <int R, typename End>
static inline void product(int count, const float* const* rows, long taps, long step, long depth, const float* panel,
                           const End end, long channel, long channels, long row, float* to) {
  if constexpr (R > 0) {
    if (count < R) return product<R - 1>(count, rows, taps, step, depth, panel, end, channel, channels, row, to);
    Vector sums[R][kVectors] = {};
    end.expect(R, to, row * channels + channel, channels);
    sum<R>(rows, taps, step, depth, panel, sums);
    for (int v = 0; v < kVectors; ++v) {
      const long from = channel + v * kLanes, place = row * channels + from;
      if (from + kLanes <= channels) {
        end.template write<R>(&sums[0][v], kVectors, from, to, place, channels);
        continue;
      }
      for (int r = 0; r < R; ++r)
        for (long i = 0; from + i < channels; ++i)
          end.write_one(sums[r][v][i], from + i, to, place + r * channels + i);
    }
  }
}

// Six values by the transposed B of F(4, 3): Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (2015).
static inline void into(const Vector* from, int apart, Vector* to, int step) {
  const Vector a = from[0], b = from[apart], c = from[2 * apart], d = from[3 * apart], e = from[4 * apart],
               f = from[5 * apart];
  const Vector even = e - 4.f * c, odd = d - 4.f * b, near = e - c, far = 2.f * (d - b);
  to[0] = 4.f * a - 5.f * c + e;
  to[step] = even + odd;
  to[2 * step] = even - odd;
  to[3 * step] = near + far;
  to[4 * step] = near - far;
  to[5 * step] = 4.f * b - 5.f * d + f;
}

// Six values by the transposed A.
static inline void back(const Vector* from, int apart, Vector* to, int step) {
  const Vector a = from[apart] + from[2 * apart], b = from[apart] - from[2 * apart],
               c = from[3 * apart] + from[4 * apart], d = from[3 * apart] - from[4 * apart];
  to[0] = from[0] + a + c;
  to[step] = b + 2.f * d;
  to[2 * step] = a + 4.f * c;
  to[3 * step] = b + 8.f * d + from[5 * apart];
}

static long tiles_at_once(long channels, long outputs, int threads) {
  const long fit = kBetween / (36 * (channels + padded(outputs, kPanel)));
  return threads * padded(std::max(fit, kFewest), kRows);
}

extern "C" {

int lanes() { return kLanes; }

int panel() { return kPanel; }

// Values of scratch memory that `winograd` needs.
long winograd_room(long channels, long outputs, int threads) {
  const long tiles = tiles_at_once(channels, outputs, threads);
  return 36 * (tiles * channels + kApart) + 36 * (tiles * padded(outputs, kPanel) + kApart);
}

// 3 x 3, stride 1, in tiles of 4 x 4 outputs: 36 products in place of 144. `weights` are 36 times (channels x outputs)
// in panels; channels and outputs are multiples of the lanes.
void winograd(const float* maps, const float* weights, const float* bias, const float* added, float* to, float* scratch,
              long images, long height, long width, long channels, long outputs, long padding, float low, float high,
              int threads) {
  const Finish finish{bias, added, low, high};
  const long tall = height + 2 * padding - 2, wide = width + 2 * padding - 2;
  const long down = blocks(tall, 4), across = blocks(wide, 4), all = images * down * across;
  const long most = tiles_at_once(channels, outputs, threads), held = padded(outputs, kPanel);
  const long read_apart = most * channels + kApart, made_apart = most * held + kApart;
  float *const read = scratch, *const made = scratch + 36 * read_apart;

#pragma omp parallel num_threads(threads) if (threads > 1)
  for (long first = 0; first < all; first += most) {
    const long tiles = std::min(most, all - first);
#pragma omp for schedule(dynamic, 4)
    for (long tile = 0; tile < tiles; ++tile) {
      const long at = first + tile, image = at / (down * across);
      const long top = at / across % down * 4 - padding, left = at % across * 4 - padding;
      const float* const from = maps + ((image * height + top) * width + left) * channels;
      const bool is_whole = top >= 0 && top + 6 <= height && left >= 0 && left + 6 <= width;
      for (long channel = 0; channel < channels; channel += kLanes) {
        Vector values[36], half[36];
        for (long i = 0; i < 6; ++i)
          for (long j = 0; j < 6; ++j) {
            const bool is_inside =
                is_whole || (top + i >= 0 && top + i < height && left + j >= 0 && left + j < width);
            values[6 * i + j] = is_inside ? load(from + (i * width + j) * channels + channel) : Vector{};
          }
        for (int j = 0; j < 6; ++j) into(values + j, 6, half + j, 6);
        for (int i = 0; i < 6; ++i) into(half + 6 * i, 1, values + 6 * i, 1);
        for (int i = 0; i < 36; ++i) store(read + i * read_apart + tile * channels + channel, values[i]);
      }
    }
#pragma omp for collapse(2) schedule(dynamic)
    for (long plane = 0; plane < 36; ++plane)
      for (long output = 0; output < held; output += kPanel) {
        const float* const ours = weights + plane * channels * held + output * channels;
        for (long tile = 0; tile < tiles; tile += kRows) {
          const float* rows[kRows];
          for (long r = 0; r < kRows; ++r) rows[r] = read + plane * read_apart + (tile + r) * channels;
          product<kRows>(int(std::min<long>(kRows, tiles - tile)), rows, 1, 0, channels, ours, AsItIs{}, output, held,
                         tile, made + plane * made_apart);
        }
      }
#pragma omp for schedule(dynamic, 4)
    for (long tile = 0; tile < tiles; ++tile) {
      const long at = first + tile, image = at / (down * across);
      const long top = at / across % down * 4, left = at % across * 4;
      for (long output = 0; output < outputs; output += kLanes) {
        Vector values[36], half[24], found[16];
        for (int i = 0; i < 36; ++i) values[i] = load(made + i * made_apart + tile * held + output);
        for (int j = 0; j < 6; ++j) back(values + j, 6, half + j, 6);
        for (int i = 0; i < 4; ++i) back(half + 6 * i, 1, found + 4 * i, 1);
        for (long i = 0; i < 4 && top + i < tall; ++i) {
          const long place = ((image * tall + top + i) * wide + left) * outputs + output;
          if (left + 4 <= wide) finish.write<4>(found + 4 * i, 1, output, to, place, outputs);
          else
            for (long j = 0; left + j < wide; ++j)
              finish.write<1>(found + 4 * i + j, 1, output, to, place + j * outputs, outputs);
        }
      }
    }
  }
}

// Any window and stride, of maps that are padded already, to (images, tall, wide, outputs).
void direct(const float* maps, const float* weights, const float* bias, const float* added, float* to, long images,
            long height, long width, long channels, long tall, long wide, long outputs, long high_window,
            long wide_window, long down, long across, float low, float high, int threads) {
  const Finish finish{bias, added, low, high};
  const long depth = wide_window * channels, all = images * tall * wide;
  if (all <= 0) return;
  // All of about one size: a small one at the end would leave threads with nothing to do.
  const long most = std::max(kKept / (channels * down * across + outputs), 8L * kRows);
  const long chunk = padded(blocks(all, std::max(all / most, 1L)), kRows);
  const long chunks = blocks(all, chunk), panels = blocks(outputs, kPanel);

#pragma omp parallel for collapse(2) schedule(dynamic) num_threads(threads) if (threads > 1)
  for (long one = 0; one < chunks; ++one)
    for (long output = 0; output < panels; ++output) {
      const float* const ours = weights + output * kPanel * high_window * depth;
      long place = one * chunk, image = place / (tall * wide), y = place / wide % tall, x = place % wide;
      for (const long end = std::min(all, place + chunk); place < end; place += kRows) {
        const int count = int(std::min<long>(kRows, end - place));
        const float* rows[kRows];
        for (int r = 0; r < count; ++r) {
          rows[r] = maps + ((image * height + y * down) * width + x * across) * channels;
          if (++x == wide) x = 0, ++y;
          if (y == tall) y = 0, ++image;
        }
        product<kRows>(count, rows, high_window, width * channels, depth, ours, finish, output * kPanel, outputs,
                       place, to);
      }
    }
}
}
