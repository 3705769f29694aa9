"""The data of a rehearsal: the same for a seed, and as uneven as real data is."""

from __future__ import annotations

from collections import Counter
from datetime import date
from statistics import median

import pytest

from load.staging.shop import Shop, checksum

UNTIL = date(2026, 2, 2)
SHOP = Shop(20_000, 7, UNTIL)


def rows(shop: Shop = SHOP) -> list[list[str]]:
    text = b"".join(shop.copy_orders()).decode()
    return [line.split("\t") for line in text.splitlines()]


ORDERS = rows()


def test_the_same_seed_gives_the_same_data_on_every_machine() -> None:
    shop = Shop(3_000, 1, UNTIL)
    again = Shop(3_000, 1, UNTIL)
    assert checksum(shop.copy_orders()) == checksum(again.copy_orders())
    assert checksum(shop.copy_customers()) == checksum(again.copy_customers())
    assert checksum(shop.copy_orders()).startswith("f9fa4992529a0e92")
    assert checksum(shop.copy_customers()).startswith("52037897a2d86c6a")


@pytest.mark.parametrize(
    "other", [Shop(3_000, 2, UNTIL), Shop(3_000, 1, date(2026, 2, 3)), Shop(2_999, 1, UNTIL)]
)
def test_another_seed_day_or_size_gives_other_data(other: Shop) -> None:
    assert checksum(other.copy_orders()) != checksum(Shop(3_000, 1, UNTIL).copy_orders())


def test_every_row_has_its_columns_and_every_order_its_customer() -> None:
    customers = b"".join(SHOP.copy_customers()).decode().splitlines()
    assert {len(row) for row in ORDERS} == {8}
    assert {line.count("\t") for line in customers} == {4}
    ids = {line.split("\t")[0] for line in customers}
    assert len(ids) == len(customers) == SHOP.customers
    assert {row[1] for row in ORDERS} <= ids
    emails = {line.split("\t")[1] for line in customers}
    assert len(emails) == len(customers)


def test_a_few_customers_have_most_of_the_orders() -> None:
    of_each = Counter(row[1] for row in ORDERS).most_common()
    tenth = sum(count for _, count in of_each[: SHOP.customers // 10])
    assert tenth > 0.6 * SHOP.orders
    assert of_each[0][1] > 100 * median(count for _, count in of_each)


def test_amounts_have_a_long_tail() -> None:
    cents = [int(row[4]) for row in ORDERS]
    assert sum(cents) / len(cents) > 1.3 * median(cents) > 0
    assert min(cents) == 0


def test_business_grows_and_has_its_week() -> None:
    days = [date.fromisoformat(row[7][:10]) for row in ORDERS]
    assert days == sorted(days)
    assert max(days) < UNTIL
    third = len(days) // 3
    assert (
        days[-third].toordinal() - UNTIL.toordinal() > days[0].toordinal() - days[third].toordinal()
    )
    week = Counter(day.weekday() for day in days)
    assert week[5] > 1.4 * week[0]


def test_what_is_optional_is_mostly_missing_and_texts_come_in_every_script() -> None:
    notes = [row[6] for row in ORDERS]
    assert 0.8 * len(notes) < notes.count("\\N") < 0.95 * len(notes)
    assert "" in notes
    text = b"".join(SHOP.copy_customers()).decode()
    for written in ("王小明", "محمد", "Zoë", "👩‍🚀", "Robert');", "Back\\\\slash", "Tab\\there"):
        assert written in text
    assert "\\N" in text


def test_some_values_are_far_longer_than_anybody_thought() -> None:
    big = rows(Shop(200_000, 1, UNTIL))
    assert max(len(row[2]) for row in big) > 10_000
    assert max(len(row[6]) for row in big) > 10_000


def test_status_is_one_of_two_and_mostly_the_usual_one() -> None:
    status = Counter(row[5] for row in ORDERS)
    assert set(status) == {"placed", "cancelled"}
    assert status["placed"] > 20 * status["cancelled"]


@pytest.mark.parametrize("orders", [0, 1, 2, 9])
def test_small_shops_are_shops(orders: int) -> None:
    shop = Shop(orders, 1, UNTIL)
    assert len(rows(shop)) == orders
    assert b"".join(shop.copy_customers()).count(b"\n") == shop.customers >= 1


def test_fewer_than_no_orders_are_refused() -> None:
    with pytest.raises(ValueError, match="write a number from 0"):
        Shop(-1, 1, UNTIL)
